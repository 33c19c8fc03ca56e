/** A list of any length: only the rows in sight, and a few around them, are in the document. */
import { html, useEffect, useRef, useSignal } from './lib.js';

const AROUND = 8;

/**
 * @param {{count: number, rowPx: number, row: (n: number) => any, label: string, head: any, at?: number, onEnd?: () => void, onScroll?: (top: number) => void, onSeen?: (first: number, last: number) => void}} props
 */
export function Rows({ count, rowPx, row, label, head, at = -1, onEnd, onScroll, onSeen }) {
  const ref = useRef(/** @type {HTMLElement | null} */ (null));
  const top = useSignal(0);
  const height = useSignal(600);
  useEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    const observer = new ResizeObserver(() => (height.value = element.clientHeight));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(top.value / rowPx) - AROUND);
  const last = Math.min(count, Math.ceil((top.value + height.value) / rowPx) + AROUND);
  useEffect(() => {
    if (last >= count - AROUND) onEnd?.();
    onSeen?.(first, last);
  }, [first, last, count]);
  useEffect(() => {
    const element = ref.current;
    if (!element || at < 0) return;
    if (at * rowPx < element.scrollTop) element.scrollTop = at * rowPx;
    else if ((at + 1) * rowPx > element.scrollTop + element.clientHeight) element.scrollTop = (at + 1) * rowPx - element.clientHeight;
  }, [at]);
  const onScrolled = (/** @type {any} */ event) => {
    const at = event.target.scrollTop;
    onScroll?.(at);
    if (Math.abs(at - top.value) >= rowPx / 2 || at === 0) top.value = at;
  };
  const shown = [];
  for (let n = first; n < last; n += 1) shown.push(row(n));
  return html`<div class="rows" role="table" aria-label=${label} aria-rowcount=${count + 1}>
    <div role="rowgroup" class="head"><div role="row" aria-rowindex="1">${head}</div></div>
    <div role="rowgroup" class="body" ref=${ref} tabindex="0" onScroll=${onScrolled}>
      <div role="presentation" style=${{ height: `${first * rowPx}px` }}></div>
      ${shown}
      <div role="presentation" style=${{ height: `${(count - last) * rowPx}px` }}></div>
    </div>
  </div>`;
}
