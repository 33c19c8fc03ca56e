/** What an answer points at, over the picture. The API tells boxes and points in the pixels of the file, the browser shows it upright. */
import { html, useSignal } from '../lib.js';
import { t } from '../words.js';

/** @typedef {{label: string | null, box: number[] | null, point: number[] | null}} Box */
/** @typedef {{source_px: [number, number], turned_deg: number, mirrored: boolean}} Medium */

/**
 * Bring a place in the file to where it is in the upright picture: mirrored first, then turned clockwise.
 * @param {number} x pixels of the file
 * @param {number} y
 * @param {Medium} medium
 * @returns {[number, number]} shares of the upright picture's width and height
 */
export function upright(x, y, { source_px: [width, height], turned_deg: turned, mirrored }) {
  const across = mirrored ? 1 - x / width : x / width;
  const down = y / height;
  if (turned === 90) return [1 - down, across];
  if (turned === 180) return [1 - across, 1 - down];
  return turned === 270 ? [down, 1 - across] : [across, down];
}

/** @param {{one: Box, medium: Medium, width: number, height: number}} props */
function Mark({ one, medium, width, height }) {
  const at = (/** @type {number | undefined} */ x, /** @type {number | undefined} */ y) => {
    const [across, down] = upright(x ?? 0, y ?? 0, medium);
    return /** @type {[number, number]} */ ([across * width, down * height]);
  };
  const [x1, y1] = one.box ? at(one.box[0], one.box[1]) : at(one.point?.[0], one.point?.[1]);
  const [x2, y2] = one.box ? at(one.box[2], one.box[3]) : [x1, y1];
  const [left, top] = [Math.min(x1, x2), Math.min(y1, y2)];
  const letters = Math.max(10, width / 32);
  const drawn = one.box
    ? html`<rect x=${left} y=${top} width=${Math.abs(x2 - x1)} height=${Math.abs(y2 - y1)} />`
    : html`<circle cx=${x1} cy=${y1} r=${width / 100} />`;
  return html`<g>${drawn}<text x=${left} y=${Math.max(letters, top - letters / 4)} font-size=${letters}>${one.label ?? ''}</text></g>`;
}

/** @param {{src: string, name: string, output: any}} props */
export function Boxes({ src, name, output }) {
  const px = useSignal([0, 0]);
  const on = useSignal(true);
  const onLoad = (/** @type {any} */ event) => (px.value = [event.target.naturalWidth, event.target.naturalHeight]);
  const [width = 0, height = 0] = px.value;
  /** @type {Box[]} */
  const found = output?.boxes ?? [];
  const medium = output?.media?.[0];
  return html`<figure class="shown"><img src=${src} alt=${name} onLoad=${onLoad} />
    ${medium && width > 0 && on.value && found.length > 0 && html`<svg viewBox=${`0 0 ${width} ${height}`} aria-hidden="true">${found.map((one) => html`<${Mark} one=${one} medium=${medium} width=${width} height=${height} />`)}</svg>`}
    ${found.length > 0 && html`<button type="button" class="quiet over" aria-pressed=${on.value ? 'true' : 'false'} onClick=${() => (on.value = !on.value)}>${t('{n} boxes', { n: found.length })}</button>`}
  </figure>`;
}
