/** What a key may do: told in a line, and a form for it. */
import { ask } from '../api.js';
import { number } from '../format.js';
import { html, useSignal } from '../lib.js';
import { Dialog, Failed } from '../parts.js';
import { t } from '../words.js';

/** Each limit: its field, its words, what it is where nothing is set, the least that can be, and in what steps. */
const LIMITS = /** @type {const} */ ([
  ['max_requests', 'requests a minute', 0, 0, 1],
  ['max_queued', 'jobs queued', 0, 0, 1],
  ['max_running', 'jobs running', 0, 0, 1],
  ['max_jobs_day', 'jobs a day', 0, 0, 1],
  ['max_vision_tokens_day', 'vision tokens a day', 0, 0, 1],
  ['weight', 'share of the workers', 1, 0.01, 'any'],
]);

/** Say which limits are set. @param {any} one */
export function limitsOf(one) {
  return LIMITS.filter(([field, , unset]) => one[field] !== unset).map(([field, words]) => `${t(words)}: ${number(one[field], 2)}`);
}

/** Make a key, or, of one that is there, set its limits. @param {{one?: any, onDone: (answer: any) => void, onClose: () => void}} props */
export function KeyForm({ one, onDone, onClose }) {
  const name = useSignal('');
  const given = useSignal(/** @type {Record<string, string>} */ (Object.fromEntries(LIMITS.map(([field, , unset]) => [field, one && one[field] !== unset ? String(one[field]) : '']))));
  const error = useSignal(/** @type {any} */ (null));
  const onSubmit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const limits = Object.fromEntries(LIMITS.map(([field, , unset]) => [field, given.value[field] ? Number(given.value[field]) : unset]));
    try {
      onDone(await (one ? ask('PATCH', `v1/keys/${one.id}`, limits) : ask('POST', 'v1/keys', { name: name.value.trim(), ...limits })));
    } catch (cause) {
      error.value = cause;
    }
  };
  return html`<${Dialog} title=${one ? t('Limits of {name}', { name: one.name }) : t('New key')} onClose=${onClose}><form onSubmit=${onSubmit}>
    ${!one && html`<label class="field">${t('whom it is for')}<input type="text" autocomplete="off" maxlength="200" value=${name} onInput=${(/** @type {any} */ event) => (name.value = event.target.value)} /></label>`}
    <div class="numbers">${LIMITS.map(
      ([field, words, unset, least, step]) => html`<label class="field">${t(words)}<input type="number" min=${least} step=${step} placeholder=${unset || '–'} value=${given.value[field]} onInput=${(/** @type {any} */ event) => (given.value = { ...given.value, [field]: event.target.value })} /></label>`,
    )}</div>
    <p class="fine">${t('What is left empty is not limited.')}</p>
    ${error.value && html`<${Failed} error=${error.value} />`}
    <div class="row end"><button type="button" onClick=${onClose}>${t('close')}</button><button type="submit" class="primary">${one ? t('set') : t('create')}</button></div>
  </form></${Dialog}>`;
}
