/** Text of the API's description: paragraphs, and code between backticks. It is never markup. */
import { html } from '../lib.js';

/** @param {{text: string}} props */
export function Text({ text }) {
  return text.split(/\n{2,}/).filter(Boolean).map((paragraph) => html`<p class="prose">${pieces(paragraph)}</p>`);
}

/** @param {string} paragraph */
function pieces(paragraph) {
  return paragraph.split(/(``[^`]+``|`[^`]+`)/).map((piece) => (piece.startsWith('`') ? html`<code>${piece.replaceAll('`', '')}</code>` : piece));
}
