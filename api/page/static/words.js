/** All that the page says. The keys are English; the table has the Chinese, and English where one thing is said otherwise. */
import { choices } from './kept.js';
import { effect, signal } from './lib.js';
import { chinese } from './zh.js';

/** @typedef {'en' | 'zh'} Language */

/** The reader's language: as chosen, else as the browser has it. */
export const language = signal(
  /** @type {Language} */ (choices.get('language') ?? (navigator.languages.find((one) => /^(zh|en)/i.test(one))?.slice(0, 2).toLowerCase() ?? 'en')),
);
const first = language.peek();

effect(() => {
  document.documentElement.lang = language.value === 'zh' ? 'zh-CN' : 'en';
  if (language.value !== first || choices.get('language')) choices.set('language', language.value);
});

/** Where the page has other words than the API. @type {Record<string, string>} */
const TOLD = {
  code: 'code of the error',
  frames_thinned: 'more frames than one job takes: some were left out',
  'cancel: {done} of {n}': '{done} of {n} cancelled',
  'retry: {done} of {n}': '{done} of {n} tried anew',
  end_missing: 'the file ends too early: what there is of it was shown',
};

/** Where English has a singular. @type {Record<string, string>} */
const ONE = {
  'remove all {n}': 'remove it',
  '{n} boxes': '{n} box',
  'Describe {n} files': 'Describe {n} file',
  '{n} match': '{n} matches',
  '{n} attempts': '{n} attempt',
  'cancel {n} jobs': 'cancel {n} job',
};

/**
 * Say something in the reader's language.
 * @param {string} key what it is in English
 * @param {Record<string, unknown>} [values] put where `{name}` stands
 */
export function t(key, values) {
  const english = String(values?.n) === '1' ? (ONE[key] ?? key) : (TOLD[key] ?? key);
  const words = language.value === 'zh' ? (chinese[key] ?? key) : english;
  return values ? words.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? '')) : words;
}
