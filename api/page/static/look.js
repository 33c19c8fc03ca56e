/** Light, dark, or as the system has it. */
import { choices } from './kept.js';
import { effect, signal } from './lib.js';

/** @typedef {'system' | 'light' | 'dark'} Look */
/** @type {Look[]} */
export const LOOKS = ['system', 'light', 'dark'];

export const look = signal(/** @type {Look} */ (choices.get('look') ?? 'system'));

effect(() => {
  document.documentElement.dataset.look = look.value;
  choices.set('look', look.value === 'system' ? null : look.value);
});
