/** Small parts that every view uses. */
import { html, signal, useEffect, useRef, useSignal } from './lib.js';
import { ago, instant, short } from './format.js';
import { REMEDIES } from './remedies.js';
import { language, t } from './words.js';

/** @type {Record<string, string>} */
const SHAPES = { queued: '○', running: '◐', succeeded: '●', failed: '✕', cancelled: '⊘' };

/** A state: a shape, a word and a colour, never the colour alone. @param {{state: string, text?: string}} props */
export function State({ state, text }) {
  return html`<span class="state ${state}"><span class="shape" aria-hidden="true">${SHAPES[state] ?? '•'}</span>${text ?? t(state)}</span>`;
}

/** @param {{at: number}} props */
export function Ago({ at }) {
  return html`<time dateTime=${new Date(at * 1000).toISOString()} title=${instant(at)}>${ago(at)}</time>`;
}

/** What was said last to those who listen instead of look. */
export const said = signal('');

/** @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyByHand(text); // the clipboard is there only on https and localhost
  }
  said.value = t('copied');
}

/** @param {string} text */
function copyByHand(text) {
  const area = document.createElement('textarea');
  area.value = text;
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

/** @param {{text: string | (() => string), label?: string, class?: string}} props */
export function Copy({ text, label, class: name = '' }) {
  const done = useSignal(false);
  const onClick = async () => {
    await copy(typeof text === 'string' ? text : text());
    done.value = true;
    setTimeout(() => (done.value = false), 1500);
  };
  return html`<button type="button" class="quiet ${name}" onClick=${onClick}>${done.value ? t('copied') : (label ?? t('copy'))}</button>`;
}

/** An id: short to the eye, whole when it is copied. @param {{id: string}} props */
export function Id({ id }) {
  return html`<button type="button" class="id" title=${`${id} · ${t('copy')}`} aria-label=${`${t('copy')} ${id}`} onClick=${() => copy(id)}>${short(id)}</button>`;
}

/** An error: words, what to do, code, the request's id. @param {{error: any, again?: () => void}} props */
export function Failed({ error, again }) {
  const code = String(error.code ?? 'error');
  const remedy = REMEDIES[code];
  const told = [error.message, code, error.requestId].filter(Boolean).join(' · ');
  return html`<div class="failed-box" role="alert">
    <p class="message">${String(error.message ?? error)}</p>
    ${remedy && html`<p>${remedy[language.value === 'zh' ? 1 : 0]}</p>`}
    <p class="fine"><code>${code}</code>${error.requestId && html` · <code>${error.requestId}</code>`}
      <${Copy} text=${told} />${again && html`<button type="button" class="quiet" onClick=${again}>${t('try again')}</button>`}</p>
  </div>`;
}

/** @param {{title: string, children?: any}} props */
export function Empty({ title, children }) {
  return html`<div class="empty"><p class="title">${title}</p>${children}</div>`;
}

/** A dialog, as the browser has it: Escape closes it, and the focus comes back. @param {{title: string, onClose: () => void, children?: any}} props */
export function Dialog({ title, onClose, children }) {
  const ref = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    dialog?.showModal();
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const onCancel = (/** @type {globalThis.Event} */ event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${ref} onCancel=${onCancel} aria-labelledby="dialog-title">
    <h2 id="dialog-title">${title}</h2>
    ${children}
  </dialog>`;
}

/** A question before something that cannot be undone. @param {{title: string, verb: string, onYes: () => void, onClose: () => void, children?: any}} props */
export function Ask({ title, verb, onYes, onClose, children }) {
  const yes = () => {
    onYes();
    onClose();
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    ${children}
    <div class="row end"><button type="button" onClick=${onClose}>${t('back')}</button><button type="button" class="danger" onClick=${yes}>${verb}</button></div>
  </${Dialog}>`;
}
