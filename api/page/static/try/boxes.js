/** Boxes that an answer names, over the picture. Qwen writes them as JSON with `bbox_2d: [x1, y1, x2, y2]` and a label. */
import { html, useSignal } from '../lib.js';
import { t } from '../words.js';

/** @typedef {{box: [number, number, number, number], label: string}} Box */

/**
 * Find the boxes in an answer; an answer that is no JSON has none.
 * @param {string} text
 * @returns {Box[]}
 */
export function boxesIn(text) {
  const start = text.search(/[[{]/);
  const end = Math.max(text.lastIndexOf(']'), text.lastIndexOf('}'));
  if (start < 0 || end < start) return [];
  try {
    return [...boxes(JSON.parse(text.slice(start, end + 1)))];
  } catch {
    return [];
  }
}

/** @param {any} value @returns {Generator<Box>} */
function* boxes(value) {
  if (value === null || typeof value !== 'object') return;
  const box = value.bbox_2d ?? value.bbox ?? value.box;
  if (Array.isArray(box) && box.length === 4 && box.every((side) => Number.isFinite(side))) {
    yield { box: /** @type {Box['box']} */ (box), label: String(value.label ?? value.name ?? '') };
    return;
  }
  for (const inner of Object.values(value)) yield* boxes(inner);
}

/** @param {{src: string, name: string, boxes: Box[]}} props */
export function Boxes({ src, name, boxes: found }) {
  const px = useSignal([0, 0]);
  const on = useSignal(true);
  const onLoad = (/** @type {any} */ event) => (px.value = [event.target.naturalWidth, event.target.naturalHeight]);
  const [width = 0, height = 0] = px.value;
  return html`<figure class="shown"><img src=${src} alt=${name} onLoad=${onLoad} />
    ${width > 0 && on.value && found.length > 0 && html`<svg viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="xMidYMid meet" aria-hidden="true">${found.map(
      ({ box: [x1, y1, x2, y2], label }) => html`<g><rect x=${Math.min(x1, x2)} y=${Math.min(y1, y2)} width=${Math.abs(x2 - x1)} height=${Math.abs(y2 - y1)} /><text x=${Math.min(x1, x2)} y=${Math.max(0, Math.min(y1, y2))} font-size=${Math.max(10, width / 32)}>${label}</text></g>`,
    )}</svg>`}
    ${found.length > 0 && html`<button type="button" class="quiet over" aria-pressed=${on.value ? 'true' : 'false'} onClick=${() => (on.value = !on.value)}>${t('{n} boxes', { n: found.length })}</button>`}
  </figure>`;
}
