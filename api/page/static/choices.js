/** The reader's language and look, to be switched. */
import { html } from './lib.js';
import { LOOKS, look } from './look.js';
import { language, t } from './words.js';

/** @type {Record<string, string>} */
const LOOK_SHAPES = { system: '◐', light: '○', dark: '●' };

export function Choices() {
  const next = LOOKS[(LOOKS.indexOf(look.value) + 1) % LOOKS.length] ?? 'system';
  return html`<div class="choices">
    <button type="button" class="quiet" lang=${language.value === 'zh' ? 'en' : 'zh-CN'} onClick=${() => (language.value = language.value === 'zh' ? 'en' : 'zh')}>${language.value === 'zh' ? 'English' : '中文'}</button>
    <button type="button" class="quiet" title=${t(`look: ${look.value}`)} aria-label=${t(`look: ${look.value}`)} onClick=${() => (look.value = next)}>${LOOK_SHAPES[look.value]}</button>
  </div>`;
}
