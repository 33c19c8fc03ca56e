/** The prompt, with the usual ones at hand; sampling and a JSON schema are folded away. */
import { ask } from '../api.js';
import { html, useEffect, useSignal } from '../lib.js';
import { language, t } from '../words.js';
import { NUMBERS, USUAL, model, numbers, prompt, schema, schemaProblem, system } from './form.js';
import { items } from './media.js';
import { describe, fitTogether, obstacle } from './view.js';
import { together } from './form.js';

const isMac = /Mac|iPhone|iPad/.test(navigator.userAgent);

/** The models, where there is more than one to choose from. */
function Models() {
  const names = useSignal(/** @type {string[]} */ ([]));
  useEffect(() => {
    ask('GET', 'v1/models').then((list) => (names.value = list.data.map((/** @type {any} */ one) => one.id)), () => {});
  }, []);
  if (names.value.length < 2) return null;
  return html`<label class="field">${t('model')}<select value=${model} onChange=${(/** @type {any} */ event) => (model.value = event.target.value)}><option value="">–</option>${names.value.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`;
}

function Sampling() {
  return html`<details class="fold"><summary>${t('sampling')}</summary>
    <label class="field">${t('system prompt')}<textarea rows="2" value=${system} onInput=${(/** @type {any} */ event) => (system.value = event.target.value)}></textarea></label>
    <${Models} />
    <div class="numbers">${NUMBERS.map(
      ([name, words, least, most, step, placeholder]) => html`<label class="field">${t(words)}<input type="number" min=${least} max=${most} step=${step} placeholder=${placeholder} value=${numbers.value[name] ?? ''} onInput=${(/** @type {any} */ event) => (numbers.value = { ...numbers.value, [name]: event.target.value })} /></label>`,
    )}</div>
  </details>`;
}

function Schema() {
  const wrong = schemaProblem();
  return html`<details class="fold"><summary>${t('JSON schema')}</summary>
    <label class="field"><span class="sr">${t('JSON schema')}</span><textarea rows="6" class="mono" spellcheck="false" placeholder=${'{"type": "object", "properties": {"title": {"type": "string"}}}'} aria-invalid=${wrong ? 'true' : 'false'} value=${schema} onInput=${(/** @type {any} */ event) => (schema.value = event.target.value)}></textarea></label>
    ${wrong && html`<p class="wrong">${t(wrong)}</p>`}
  </details>`;
}

export function Question() {
  const many = items.value.length > 1 && !(together.value && fitTogether());
  const why = obstacle();
  const onUsual = (/** @type {any} */ event) => {
    if (event.target.value) prompt.value = event.target.value;
    event.target.value = '';
  };
  return html`<section class="card" aria-label=${t('question')}>
    <div class="row between"><label for="prompt">${t('prompt')}</label>
      <select aria-label=${t('usual prompts')} onChange=${onUsual}><option value="">${t('usual prompts')}</option>${USUAL[language.value].map(([name, text]) => html`<option value=${text}>${name}</option>`)}</select></div>
    <textarea id="prompt" rows="3" value=${prompt} onInput=${(/** @type {any} */ event) => (prompt.value = event.target.value)}></textarea>
    <${Sampling} /><${Schema} />
    <div class="row end"><span class="fine grow" id="why">${why}</span>
      <button type="button" class="primary" aria-disabled=${why ? 'true' : 'false'} aria-describedby="why" onClick=${describe}>${many ? t('Describe {n} files', { n: items.value.length }) : t('Describe')} <kbd aria-hidden="true">${isMac ? '⌘↵' : 'Ctrl ↵'}</kbd></button></div>
  </section>`;
}
