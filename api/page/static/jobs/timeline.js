/** A job's life to scale: a lane for each attempt, and what it did from when to when. */
import { duration } from '../format.js';
import { html } from '../lib.js';
import { t } from '../words.js';

/** @typedef {{what: string, fromMs: number, untilMs: number}} Span */
/** @typedef {{attempt: number, spans: Span[], lost: boolean}} Lane */

/** Stages by the receipt's names for them; what lies between decoding and rendering is a wait for the engine. @type {[string, string][]} */
const STAGES = [
  ['fetch', 'fetching'],
  ['decode', 'decoding'],
  ['wait', 'waiting'],
  ['render', 'rendering'],
  ['generate', 'generating'],
];

/**
 * Lay out what happened.
 * @param {import('../sse.js').Event[]} events in order; those of texts are passed over
 * @param {number} endMs when the job ended, or now, since it was created
 * @returns {Lane[]}
 */
export function lanes(events, endMs) {
  /** @type {Lane[]} */
  const made = [];
  /** @type {Lane} */
  let lane = { attempt: 1, spans: [], lost: false };
  const begin = (/** @type {string} */ what, /** @type {number} */ atMs) => {
    const before = lane.spans.at(-1);
    if (before) before.untilMs = atMs;
    lane.spans.push({ what, fromMs: atMs, untilMs: Math.max(atMs, endMs) });
  };
  for (const { type, data } of events) {
    const atMs = data.after_ms;
    if (!Number.isFinite(atMs)) continue;
    if (type === 'job.queued' && lane.spans.length) {
      const before = lane.spans.at(-1);
      if (before) before.untilMs = atMs;
      lane.lost = true;
      made.push(lane);
      lane = { attempt: lane.attempt + 1, spans: [], lost: false };
    }
    if (type === 'job.queued') begin('queued', atMs);
    else if (type === 'job.running') {
      if (lane.spans.some((span) => span.what !== 'queued')) { // taken over without a wait
        lane.lost = true;
        made.push(lane);
        const before = lane.spans.at(-1);
        if (before) before.untilMs = atMs;
        lane = { attempt: data.attempt, spans: [], lost: false };
      }
      lane.attempt = data.attempt ?? lane.attempt;
      begin('starting', atMs);
    } else if (type === 'job.stage') begin(data.stage, atMs);
  }
  return [...made, ...(lane.spans.length ? [lane] : [])];
}

/**
 * Put a receipt's own times in the place of what events told, which follow a worker by up to a second.
 * @param {Lane[]} found
 * @param {Record<string, number> | undefined} timings milliseconds by stage, of the last attempt
 * @returns {Lane[]}
 */
export function exact(found, timings) {
  const last = found.at(-1);
  const claimed = last?.spans.find((span) => span.what !== 'queued');
  if (!last || !claimed || !timings?.total) return found;
  const known = STAGES.reduce((sum, [name]) => sum + (timings[name] ?? 0), 0);
  /** @type {Record<string, number>} */
  const lengths = { wait: Math.max(0, timings.total - known), ...timings };
  let atMs = claimed.fromMs;
  const spans = STAGES.filter(([name]) => (lengths[name] ?? 0) > 0).map(([name, what]) => ({ what, fromMs: atMs, untilMs: (atMs += lengths[name] ?? 0) }));
  return [...found.slice(0, -1), { ...last, spans: [...last.spans.filter((span) => span.what === 'queued'), ...spans] }];
}

/** @param {{events: import('../sse.js').Event[], endMs: number, over: boolean, timings?: Record<string, number>}} props */
export function Timeline({ events, endMs, over, timings }) {
  const found = exact(lanes(events, endMs), timings);
  if (!found.length) return null;
  const whole = Math.max(1, endMs);
  const percent = (/** @type {number} */ ms) => `${(100 * ms) / whole}%`;
  return html`<section class="card"><h2>${t('timeline')} <span class="fine">${duration(endMs)}</span></h2>
    <ol class="lanes">${found.map(
      (lane, n) => html`<li><span class="fine">${found.length > 1 ? t('run {n}', { n: n + 1 }) : ''}</span>
        <div class="lane" aria-hidden="true">${lane.spans.map((span) => html`<span class="span ${span.what}" style=${{ left: percent(span.fromMs), width: percent(Math.max(0, span.untilMs - span.fromMs)) }} title=${`${t(span.what)} ${duration(span.untilMs - span.fromMs)}`}></span>`)}${lane.lost && html`<span class="lost" style=${{ left: percent(lane.spans.at(-1)?.untilMs ?? 0) }}>✕</span>`}</div>
        <p class="legend">${lane.spans.filter((span) => span.untilMs > span.fromMs || lane.spans.length === 1).map((span) => html`<span class="key ${span.what}"><span class="dot" aria-hidden="true"></span>${t(span.what)} <span class="number">${duration(span.untilMs - span.fromMs)}</span></span>`)}${lane.lost && html`<span class="state failed">✕ ${t('given back: its worker was lost or left, or it is tried again')}</span>`}${!over && lane === found.at(-1) && html`<span class="fine">${t('goes on')}</span>`}</p></li>`,
    )}</ol></section>`;
}
