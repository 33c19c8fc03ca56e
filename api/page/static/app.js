/** The page: starts here. */
import { keyWanted, key, signIns, unreachable } from './api.js';
import { facts } from './facts.js';
import { html, render, signal, useEffect, useRef, useSignal, useSignalEffect } from './lib.js';
import { Empty, Failed } from './parts.js';
import { route, link } from './route.js';
import { Bar, KeyDialog, Said, trouble, watchService } from './shell.js';
import { t } from './words.js';
import './look.js';

/** Views, which wait for their own files and not for each other's: the first two come with the page, the rest when they are looked at. @type {Record<string, () => Promise<any>>} */
const LATER = {
  try: async () => (await import('./try/view.js')).Try,
  jobs: async () => (await import('./jobs/list.js')).Jobs,
  job: async () => (await import('./jobs/detail.js')).Detail,
  workers: async () => (await import('./workers/view.js')).Workers,
  settings: async () => (await import('./settings/view.js')).Settings,
};
const loaded = signal(/** @type {Record<string, any>} */ ({}));

/** @param {{name: string, id: string}} props */
function Later({ name, id }) {
  const error = useSignal(/** @type {any} */ (null));
  const wasAway = useRef(false);
  useSignalEffect(() => {
    wasAway.current ||= Boolean(error.value) && trouble.value !== '';
    if (wasAway.current && !trouble.value) location.reload();
  });
  useEffect(() => {
    const load = LATER[name];
    error.value = null;
    // A browser does not fetch a module again that it could not fetch: the page is.
    if (load && !loaded.value[name]) load().then((view) => (loaded.value = { ...loaded.value, [name]: view }), () => (error.value = unreachable()));
  }, [name]);
  const View = loaded.value[name];
  if (error.value) return html`<h1 class="sr">${t('the gateway does not answer')}</h1><${Failed} error=${error.value} again=${() => location.reload()} />`;
  return View ? html`<${View} key=${id} id=${id} />` : null;
}

function View() {
  const { place, id } = route.value;
  const shown = place === 'try' && facts.read_only ? 'jobs' : place;
  if (shown === 'jobs') return html`<${Later} name=${id ? 'job' : 'jobs'} id=${id} />`;
  if (LATER[shown] && shown !== 'job') return html`<${Later} name=${shown} id=${id} />`;
  return html`<h1 class="sr">${t('There is nothing here.')}</h1><${Empty} title=${t('There is nothing here.')}><p><a href=${link('try')}>${t('Try')}</a></p></${Empty}>`;
}

function App() {
  // A reader without a key is asked for one before anything is asked of the service.
  const waits = keyWanted.value && !key.value;
  return html`<a class="skip" href="#main" onClick=${skip}>${t('skip to the content')}</a>
    <${Bar} />
    <main id="main" class="wide" tabindex="-1">${waits ? null : html`<${View} key=${signIns.value} />`}</main>
    <${KeyDialog} /><${Said} />`;
}

/** @param {globalThis.Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

const root = document.getElementById('app');
if (root) {
  root.replaceChildren();
  render(html`<${App} />`, root);
}
watchService();
