/** Numbers, sizes, durations and instants, as the reader's language writes them. */
import { signal } from './lib.js';
import { language, t } from './words.js';

/** The time now, for «3 min ago»; it moves once in five seconds, for all of them together. */
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 5000);

/** @type {Map<string, any>} formatters are dear to make */
const made = new Map();

/**
 * @template T
 * @param {string} name
 * @param {(locale: string) => T} make
 * @returns {T}
 */
function own(name, make) {
  const locale = language.value === 'zh' ? 'zh-CN' : 'en';
  const known = made.get(name + locale) ?? make(locale);
  made.set(name + locale, known);
  return known;
}

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return own(`number${digits}`, (locale) => new Intl.NumberFormat(locale, { maximumFractionDigits: digits })).format(value);
}

/** @param {number} value */
export function size(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let step = 0;
  while (value >= 1000 && step < units.length - 1) {
    value /= 1000;
    step += 1;
  }
  return `${number(value, value < 10 && step ? 1 : 0)} ${units[step]}`;
}

/** @param {number} ms */
export function duration(ms) {
  if (ms < 1000) return `${number(Math.max(0, ms))} ms`;
  const s = ms / 1000;
  if (s < 60) return `${number(s, s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${number(Math.floor(s % 60))} s`;
  return `${Math.floor(s / 3600)} h ${number(Math.floor((s % 3600) / 60))} min`;
}

/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const STEPS = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];

/** Say how long ago, or in how long. @param {number} atS Unix seconds */
export function ago(atS) {
  const s = atS - now.value / 1000;
  const [unit, length] = STEPS.find(([, least]) => Math.abs(s) >= least) ?? ['second', 1];
  if (unit === 'second' && Math.abs(s) < 5) return t('just now');
  return own('ago', (locale) => new Intl.RelativeTimeFormat(locale, { numeric: 'always', style: 'narrow' })).format(Math.trunc(s / length), unit);
}

/** The exact instant. @param {number} atS Unix seconds */
export function instant(atS) {
  return own('instant', (locale) => new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'medium' })).format(atS * 1000);
}

/** An id, short enough for a row; what is copied is the whole one. @param {string} id */
export function short(id) {
  const [kind, rest = ''] = id.split(/[_-](.*)/s);
  return rest.length > 10 ? `${kind}…${rest.slice(-6)}` : id;
}
