/** Small charts of the last hour, drawn on canvas by uPlot; what they show stands there in words, too. */
import { number } from '../format.js';
import { html, useEffect, useRef } from '../lib.js';
import { look } from '../look.js';
import { history, historyMoved } from '../shell.js';
import { language, t } from '../words.js';
import uPlot from '../vendor/uplot.js';

const HEIGHT_PX = 120;

/** A colour as a canvas can take it: the tokens are of both looks. @param {string} token */
function colour(token) {
  const probe = document.createElement('span');
  probe.style.color = `var(--${token})`;
  document.body.append(probe);
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

/** uPlot's own sheet, once. */
function bringSheet() {
  if (document.getElementById('uplot-sheet')) return;
  const sheet = Object.assign(document.createElement('link'), { id: 'uplot-sheet', rel: 'stylesheet', href: new URL('../vendor/uplot.css', import.meta.url).href });
  document.head.append(sheet);
}

/** How many seconds the charts show. */
function spanS() {
  return (history[0].at(-1) ?? 0) - (history[0][0] ?? 0);
}

/** @param {number} atS */
function clock(atS) {
  return new Intl.DateTimeFormat(language.peek() === 'zh' ? 'zh-CN' : 'en', { hour: '2-digit', minute: '2-digit', ...(spanS() < 300 ? { second: '2-digit' } : {}), hour12: false }).format(atS * 1000);
}

/** @typedef {{name: string, token: string, of: (n: number) => number}} Line */

/** @param {Line[]} lines @returns {[number[], ...number[][]]} */
function dataOf(lines) {
  return [[...history[0]], ...lines.map(({ of }) => history[0].map((_, n) => of(n)))];
}

/** @param {Line[]} lines @param {number} width @returns {import('uplot').Options} */
function optionsOf(lines, width) {
  const [soft, hair] = [colour('soft'), colour('line')];
  const axis = { stroke: soft, gap: 4, grid: { stroke: hair, width: 1 }, ticks: { show: false }, font: '12px system-ui' };
  return {
    width,
    height: HEIGHT_PX,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
    axes: [
      { ...axis, size: 28, space: 80, values: (_, ticks) => ticks.map(clock) },
      { ...axis, size: 44, values: (_, ticks) => ticks.map((value) => number(value, 1)) },
    ],
    series: [{}, ...lines.map(({ token }) => ({ stroke: colour(token), width: 1.5, points: { show: false } }))],
  };
}

/** @param {{title: string, unit?: string, lines: Line[]}} props */
export function Chart({ title, unit = '', lines }) {
  const ref = useRef(/** @type {HTMLElement | null} */ (null));
  const dark = look.value;
  useEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    bringSheet();
    const chart = new uPlot(optionsOf(lines, element.clientWidth), dataOf(lines), element);
    const resized = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT_PX }));
    resized.observe(element);
    const done = historyMoved.subscribe(() => chart.setData(dataOf(lines)));
    return () => {
      done();
      resized.disconnect();
      chart.destroy();
    };
  }, [dark, language.value]);
  const last = history[0].length - 1;
  historyMoved.value; // the words below move with it
  const told = lines.map(({ name, of }) => `${t(name)} ${last < 0 ? '–' : number(of(last), 1)}${unit}`).join(', ');
  return html`<figure class="chart"><figcaption><strong>${title}</strong> <span class="fine">${lines.map(({ name, token }) => html`<span class="key"><span class="dot" style=${{ background: `var(--${token})` }}></span>${t(name)}</span> `)}</span></figcaption>
    <div ref=${ref} role="img" aria-label=${`${title}: ${told}`}></div></figure>`;
}
