/** Filters that are needed now and then: class, group, model, code of the error, and from when to when. */
import { html } from '../lib.js';
import { refine, route } from '../route.js';
import { t } from '../words.js';

const CLASSES = ['interactive', 'default', 'bulk'];
const TEXTS = ['group', 'model', 'code'];
const INSTANTS = ['since', 'until'];

/** An instant of the address bar, Unix seconds or ISO 8601, as a control has it: the reader's own time. @param {string | undefined} given */
export function asLocal(given) {
  const at = new Date(/^\d+(\.\d+)?$/.test(given ?? '') ? Number(given) * 1000 : (given ?? ''));
  return Number.isNaN(at.getTime()) ? '' : new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

export function MoreFilters() {
  const { query } = route.value;
  const isUsed = ['class', ...TEXTS, ...INSTANTS].some((name) => query[name]);
  const set = (/** @type {string} */ name) => (/** @type {any} */ event) => refine({ [name]: event.target.value.trim() });
  const setInstant = (/** @type {string} */ name) => (/** @type {any} */ event) => refine({ [name]: event.target.value && new Date(event.target.value).toISOString() });
  return html`<details class="fold more-filters" open=${isUsed}><summary>${t('more filters')}</summary>
    <div class="numbers">
      <label class="field">${t('class')}<select value=${query.class ?? ''} onChange=${set('class')}><option value="">${t('all')}</option>${CLASSES.map((name) => html`<option value=${name}>${t(name)}</option>`)}</select></label>
      ${TEXTS.map((name) => html`<label class="field">${t(name)}<input type="text" value=${query[name] ?? ''} onChange=${set(name)} /></label>`)}
      ${INSTANTS.map((name) => html`<label class="field">${t(name)}<input type="datetime-local" value=${asLocal(query[name])} onChange=${setInstant(name)} /></label>`)}
    </div></details>`;
}
