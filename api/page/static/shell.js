/** What stands around every view: places, how the service is, language and look; and the question for a key. */
import { ask, key, keyWanted, useKey } from './api.js';
import { Choices } from './choices.js';
import { facts } from './facts.js';
import { number } from './format.js';
import { html, signal, useEffect, useSignal } from './lib.js';
import { Dialog, said } from './parts.js';
import { link, route } from './route.js';
import { t } from './words.js';

/** @typedef {{queued: number, running: number, succeeded: number, failed: number, cancelled: number, load: number}} Queue */
/** @typedef {{id: string, phase: string, [name: string]: any}} Worker */

/** How the service is, as it was last told. */
export const queue = signal(/** @type {Queue | null} */ (null));
export const workers = signal(/** @type {Worker[] | null} */ (null));
/** Jobs that ended in a second, lately. */
export const rate = signal(0);
/** Whether the last question went unanswered. */
export const away = signal(false);

/** The last hour, for the charts: seconds, queued, running, ended a second, failed a second. */
export const history = /** @type {[number[], number[], number[], number[], number[]]} */ ([[], [], [], [], []]);
export const historyMoved = signal(0);

const LOOK_EVERY_MS = 3000;
const KEPT_POINTS = 1200;

/** @type {{at: number, queue: Queue} | null} */
let before = null;

/** @param {Queue} counts */
function note(counts) {
  const at = Date.now() / 1000;
  if (before) {
    const passed = Math.max(0.001, at - before.at);
    const failed = Math.max(0, counts.failed - before.queue.failed) / passed;
    const ended = Math.max(0, counts.succeeded - before.queue.succeeded) / passed + failed;
    rate.value = ended < 0.05 && rate.value < 0.05 ? 0 : 0.5 * rate.value + 0.5 * ended;
    [at, counts.queued, counts.running, ended, failed].forEach((value, n) => {
      history[/** @type {0} */ (n)].push(value);
      if (history[/** @type {0} */ (n)].length > KEPT_POINTS) history[/** @type {0} */ (n)].shift();
    });
    historyMoved.value += 1;
  }
  before = { at, queue: counts };
  queue.value = counts;
  document.title = counts.load ? `(${counts.load}) Sightline` : 'Sightline';
}

async function lookOnce() {
  if (document.hidden || keyWanted.value) return;
  try {
    const [counts, list] = await Promise.all([ask('GET', 'v1/queue'), ask('GET', 'v1/workers')]);
    note(counts);
    workers.value = list.data;
    away.value = false;
  } catch {
    away.value = true;
  }
}

/** Ask how the service is, again and again while somebody looks. */
export function watchService() {
  const repeat = async () => {
    await lookOnce();
    setTimeout(repeat, LOOK_EVERY_MS);
  };
  repeat();
  document.addEventListener('visibilitychange', lookOnce);
}

const PLACES = /** @type {const} */ ([
  ['try', 'Try'],
  ['jobs', 'Jobs'],
  ['workers', 'Workers'],
  ['settings', 'Settings'],
]);

/** How the service is, in a line. */
function Health() {
  if (away.value) return html`<p class="health bad">✕ ${t('the gateway does not answer')}</p>`;
  if (!queue.value || !workers.value) return html`<p class="health"></p>`;
  const ready = workers.value.filter((worker) => worker.phase === 'ready').length;
  const told = [
    t('{n} ready', { n: number(ready) }),
    t('{n} queued', { n: number(queue.value.queued) }),
    t('{n} running', { n: number(queue.value.running) }),
    ...(rate.value >= 0.05 ? [t('{n} jobs/s', { n: number(rate.value, rate.value < 10 ? 1 : 0) })] : []),
  ];
  return html`<p class="health ${ready ? 'good' : 'bad'}"><span aria-hidden="true">${ready ? '●' : '○'}</span> ${told.join(' · ')}</p>`;
}

export function Bar() {
  const place = route.value.place;
  return html`<header class="bar"><div class="wide">
    <a class="brand" href=${link('try')}>Sightline</a>
    <nav aria-label=${t('places')}>${PLACES.filter(([name]) => !facts.read_only || name !== 'try').map(
      ([name, words]) => html`<a href=${link(name)} aria-current=${place === name ? 'page' : undefined}>${t(words)}</a>`,
    )}</nav>
    <${Health} />
    <${Choices} />
  </div></header>`;
}

/** The question for a key; it is tried before it is kept. */
export function KeyDialog() {
  const given = useSignal('');
  const wrong = useSignal('');
  useEffect(() => () => (given.value = ''), []);
  if (!keyWanted.value) return null;
  const onSubmit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (!given.value.trim()) return;
    useKey(given.value.trim());
    keyWanted.value = false;
    try {
      await ask('GET', 'v1/queue');
      wrong.value = '';
      dispatchEvent(new CustomEvent('signed-in'));
    } catch (error) {
      wrong.value = /** @type {Error} */ (error).message;
      useKey(null);
    }
  };
  return html`<${Dialog} title=${t('This service asks for an API key')} onClose=${() => {}}>
    <form onSubmit=${onSubmit}>
      <label class="field">${t('API key')}<input type="password" autocomplete="off" value=${given} onInput=${(/** @type {any} */ event) => (given.value = event.target.value)} /></label>
      ${wrong.value && html`<p class="wrong" role="alert">${wrong.value}</p>`}
      <p class="fine">${t('Whoever runs the service makes one with')} <code>sightline keys create NAME</code>. ${t('It stays in this tab, and is forgotten with it.')}</p>
      <div class="row end"><button type="submit" class="primary">${t('Sign in')}</button></div>
    </form>
  </${Dialog}>`;
}

/** Tells those who do not see: states, and that something was copied; never each token. */
export function Said() {
  return html`<p class="sr" role="status" aria-live="polite">${said.value}</p>`;
}

export const signedIn = () => !facts.keys || key.value !== null;
