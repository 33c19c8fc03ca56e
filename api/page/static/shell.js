/** What stands around every view: places, how the service is, language and look; and the question for a key. */
import { ApiError, ask, key, keyWanted, signIns, useKey } from './api.js';
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
/** Why the last question got no answer: the error's code; empty where it got one, or this reader is not to have one. */
export const trouble = signal('');

/** The last hour, for the charts: seconds, queued, running, ended a second, failed a second. */
export const history = /** @type {[number[], number[], number[], number[], number[]]} */ ([[], [], [], [], []]);
export const historyMoved = signal(0);

/** Phases of a worker that will take jobs soon. */
const STARTING = new Set(['starting', 'downloading', 'loading', 'warming']);
/** @param {string} phase */
export const isStarting = (phase) => STARTING.has(phase);

/** Why what is queued waits, where nobody is there to take it. */
export function whyWaiting() {
  if (!workers.value || workers.value.some((worker) => worker.phase === 'ready')) return '';
  return workers.value.some((worker) => isStarting(worker.phase)) ? t('The model is being loaded.') : t('No worker is running; it waits for one.');
}

const LOOK_EVERY_MS = 3000;
const KEPT_POINTS = 1200;
/** A key that may ask no more is asked with again after so long, where nobody says after how long. */
const LONG_S = 60;

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

/** Workers are read where they are shown, and where something has become of them: a look is one request of a key's. @param {any} counts */
function areNews(counts) {
  const known = workers.value?.filter((worker) => worker.phase === 'ready').length;
  return !known || known !== counts.workers_ready || route.peek().place === 'workers';
}

/** @returns {Promise<number>} in how many milliseconds to look again */
async function lookOnce() {
  if (document.hidden || keyWanted.value) return LOOK_EVERY_MS;
  try {
    const counts = await ask('GET', 'v1/queue');
    if (areNews(counts)) workers.value = (await ask('GET', 'v1/workers')).data;
    note(counts);
    trouble.value = '';
  } catch (error) {
    const { status, code, retryAfterS } = /** @type {ApiError} */ (error);
    trouble.value = status >= 400 && status < 500 ? '' : code;
    if (status === 429) return 1000 * (retryAfterS ?? LONG_S);
  }
  return LOOK_EVERY_MS;
}

/** Ask how the service is, again and again while somebody looks. */
export function watchService() {
  const repeat = async () => {
    setTimeout(repeat, await lookOnce());
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
  if (trouble.value) return html`<p class="health bad">✕ ${trouble.value === 'unreachable' ? t('the gateway does not answer') : trouble.value}</p>`;
  if (!queue.value || !workers.value) return html`<p class="health"></p>`;
  const ready = workers.value.filter((worker) => worker.phase === 'ready').length;
  const starting = workers.value.filter((worker) => isStarting(worker.phase)).length;
  const told = [
    ...(ready || !starting ? [t('{n} ready', { n: number(ready) })] : []),
    ...(starting ? [t('{n} starting', { n: number(starting) })] : []),
    t('{n} queued', { n: number(queue.value.queued) }),
    t('{n} running', { n: number(queue.value.running) }),
    ...(rate.value >= 0.05 ? [t('{n} jobs/s', { n: number(rate.value, rate.value < 10 ? 1 : 0) })] : []),
  ];
  return html`<p class="health ${ready ? 'good' : starting ? 'soon' : 'bad'}"><span aria-hidden="true">${ready ? '●' : starting ? '◐' : '○'}</span> ${told.join(' · ')}</p>`;
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
  const refused = key.value !== null && !wrong.value; // it was good when the tab was opened
  const onSubmit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (!given.value.trim()) return;
    useKey(given.value.trim());
    keyWanted.value = false;
    signIns.value += 1; // now: a view that were made anew after the answer would lose what its reader has put there meanwhile
    try {
      await ask('GET', 'v1/queue');
      wrong.value = '';
    } catch (error) {
      wrong.value = error instanceof ApiError && error.status !== 401 ? error.message : t('The service does not know this key.');
      useKey(null);
    }
  };
  return html`<${Dialog} title=${t('This service asks for an API key')} onClose=${() => {}}>
    <form onSubmit=${onSubmit}>
      <label class="field">${t('API key')}<input type="password" autocomplete="off" value=${given} onInput=${(/** @type {any} */ event) => (given.value = event.target.value)} /></label>
      ${(wrong.value || refused) && html`<p class="wrong" role="alert">${wrong.value || t('The key of this tab is not valid any more.')}</p>`}
      <p class="fine">${t('Whoever runs the service makes one with')} <code>sightline keys create NAME</code>. ${t('It stays in this tab, and is forgotten with it.')}</p>
      <div class="row end"><button type="submit" class="primary">${t('Sign in')}</button></div>
    </form>
  </${Dialog}>`;
}

/** Tells those who do not see: states, and that something was copied; never each token. */
export function Said() {
  return html`<p class="sr" role="status" aria-live="polite">${said.value}</p>`;
}
