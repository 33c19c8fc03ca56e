/** Keys for those who keep their hands on them. */
import { html, useEffect } from '../lib.js';
import { Dialog } from '../parts.js';
import { go, link } from '../route.js';
import { t } from '../words.js';

/** @type {[string, string][]} */
const KEYS = [
  ['↑ ↓ j k', 'move'],
  ['Enter', 'open'],
  ['x', 'select'],
  ['c', 'cancel'],
  ['/', 'search'],
  ['space', 'pause'],
  ['?', 'keys'],
];

/** Whether somebody is typing, or a button has the key. @param {KeyboardEvent} event */
function isElsewhere(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  return event.ctrlKey || event.metaKey || event.altKey || Boolean(document.querySelector('dialog[open]')) || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}

/**
 * @param {{list: import('./store.js').JobList, at: import('../lib.js').Signal<number>, helps: import('../lib.js').Signal<boolean>, onSelect: () => void, onCancel: () => void}} props
 */
export function useKeys({ list, at, helps, onSelect, onCancel }) {
  useEffect(() => {
    const move = (/** @type {number} */ step) => {
      at.value = Math.max(0, Math.min(list.order.value.length - 1, at.value + step));
      const focus = () => document.getElementById(`job-${list.order.value[at.value]}`)?.focus({ preventScroll: true });
      focus(); // at once: the next key may be Enter
      requestAnimationFrame(focus); // a row that was out of sight is there with the next frame
    };
    /** @type {Record<string, () => void>} */
    const deeds = {
      j: () => move(1),
      ArrowDown: () => move(1),
      k: () => move(-1),
      ArrowUp: () => move(-1),
      x: onSelect,
      c: onCancel,
      '/': () => /** @type {HTMLElement | null} */ (document.querySelector('.search'))?.focus(),
      '?': () => (helps.value = true),
      ' ': () => list.pause(!list.paused.value),
    };
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      if (isElsewhere(event)) return;
      const target = /** @type {HTMLElement} */ (event.target);
      if (event.key === ' ' && target.tagName === 'BUTTON') return;
      if (event.key === 'Enter' && !/^(A|BUTTON)$/.test(target.tagName) && list.order.value[at.value]) go(link('jobs', list.order.value[at.value]));
      const deed = deeds[event.key];
      if (!deed) return;
      event.preventDefault();
      deed();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  });
}

/** @param {{onClose: () => void}} props */
export function Help({ onClose }) {
  return html`<${Dialog} title=${t('keys')} onClose=${onClose}>
    <dl class="keys">${KEYS.map(([keys, words]) => html`<dt><kbd>${keys}</kbd></dt><dd>${t(words)}</dd>`)}</dl>
    <div class="row end"><button type="button" onClick=${onClose}>${t('close')}</button></div>
  </${Dialog}>`;
}
