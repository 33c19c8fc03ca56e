/** What came of a run: state and stage, the text as it grows, what it cost, and the request as code. */
import { base, facts } from '../facts.js';
import { duration, number } from '../format.js';
import { html, signal, useEffect, useRef, useSignal } from '../lib.js';
import { liveness } from '../live.js';
import { Copy, Empty, Failed, State } from '../parts.js';
import { link } from '../route.js';
import { whyWaiting } from '../shell.js';
import { t } from '../words.js';
import { Boxes } from './boxes.js';
import { curl, langchain, openai, sightline } from './code.js';
import { describe } from './view.js';

/** A clock for what runs: it moves only while something does. */
const tick = signal(Date.now());

/** @param {{run: import('./run.js').Run}} props */
function Elapsed({ run }) {
  useEffect(() => {
    const timer = setInterval(() => !run.ended.value && (tick.value = Date.now()), 100);
    return () => clearInterval(timer);
  }, [run]);
  return html`<span class="number">${duration(Math.max(0, (run.ended.value || tick.value) - run.began))}</span>`;
}

/** @param {{run: import('./run.js').Run}} props */
export function StateLine({ run }) {
  const state = run.state.value;
  const shown = { waiting: 'queued', uploading: 'queued' }[state] ?? state;
  const words = state === 'running' && run.stage.value ? t(run.stage.value) : t(state);
  return html`<div class="row between stateline">
    <span class="row wrap"><${State} state=${shown} text=${words} />
      ${state === 'uploading' && html`<progress max="1" value=${run.progress} aria-label=${t('uploading')}></progress>`}
      <${Elapsed} run=${run} />
      ${run.attempt.value > 1 && html`<span class="fine">${t('attempt {n}: the one before did not end', { n: run.attempt.value })}</span>`}
      ${!run.isOver && run.id.value && liveness.value === 'reconnecting' && html`<span class="fine">${t('reconnecting')}…</span>`}
      ${run.state.value === 'queued' && run.id.value && whyWaiting() && html`<span class="fine">${whyWaiting()}</span>`}
      ${!run.isOver && run.held.value && html`<span class="fine">${run.held.value.message} · ${t('sent again in {time}', { time: duration(1000 * run.held.value.retryAfterS) })}</span>`}</span>
    ${!run.isOver && !facts.read_only && html`<button type="button" class="danger" onClick=${() => run.stop()}>${t('Stop')}</button>`}
  </div>`;
}

/** @param {{run: import('./run.js').Run}} props */
export function Text({ run }) {
  const ref = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    run.flow.show(ref.current);
    return () => run.flow.show(null);
  }, [run]);
  return html`<div class="text ${run.isOver ? '' : 'growing'}" ref=${ref} data-part="text"></div>`;
}

/** @param {{job: any}} props */
export function Receipt({ job }) {
  const output = job?.output;
  if (!output) return null;
  const { usage, timings_ms: timings } = output;
  const told = [
    `${t('prompt')} ${number(usage.prompt_tokens)}`,
    `${t('vision')} ${number(usage.vision_tokens)}`,
    `${t('answer')} ${number(usage.output_tokens)}`,
    ...(timings.total ? [duration(timings.total)] : []),
    ...(output.finish_reason === 'length' ? [t('cut at the most tokens')] : []),
    ...(output.partial ? [t('stopped: this is what there was')] : []),
    ...(output.warnings ?? []).map((/** @type {string} */ warning) => `⚠ ${t(warning)}`),
  ];
  return html`<p class="fine receipt">${told.join(' · ')}</p>`;
}

const WAYS = /** @type {const} */ (['curl', 'Python', 'openai', 'LangChain']);

/** @param {string} way @param {any} body @param {string} model */
function codeOf(way, body, model) {
  if (way === 'curl') return curl(base, body, facts.keys);
  if (way === 'Python') return sightline(base, body);
  return way === 'openai' ? openai(base, body, model) : langchain(base, body, model);
}

/** The request as code, to see and to copy. @param {{body: any, model: string}} props */
export function Code({ body, model }) {
  const way = useSignal('');
  return html`<div class="row wrap" role="group" aria-label=${t('the request as code')}>${WAYS.map(
    (name) => html`<button type="button" class="quiet" aria-pressed=${way.value === name ? 'true' : 'false'} onClick=${() => (way.value = way.value === name ? '' : name)}>${name}</button>`,
  )}</div>
  ${way.value && html`<div class="code"><${Copy} class="over" text=${codeOf(way.value, body, model)} /><pre tabindex="0" aria-label=${t('the request as {way}', { way: way.value })}><code>${codeOf(way.value, body, model)}</code></pre></div>`}`;
}

/** What is described, as large as there is room; boxes that the answer names can be laid over it. @param {{run: import('./run.js').Run}} props */
function Shown({ run }) {
  const item = run.items[0];
  if (!item?.shown || run.items.length > 1) return null;
  if (item.kind === 'video') return html`<video class="shown" src=${item.shown} controls muted playsinline aria-label=${item.name}></video>`;
  return html`<${Boxes} src=${item.shown} name=${item.name} output=${run.job.value?.output} />`;
}

/** @param {{run: import('./run.js').Run | null}} props */
export function Result({ run }) {
  if (!run) return html`<section class="card result" aria-label=${t('answer')}><${Empty} title=${t('The text will be here, as it is generated.')} /></section>`;
  const { job, error, flow, body } = { job: run.job.value, error: run.error.value, flow: run.flow, body: run.body };
  return html`<section class="card result" aria-label=${t('answer')} aria-busy=${run.isOver ? 'false' : 'true'}>
    <${StateLine} run=${run} />
    <${Shown} run=${run} />
    <${Text} run=${run} />
    ${error && html`<${Failed} error=${error} again=${describe} />`}
    <${Receipt} job=${job} />
    ${run.id.value && body && html`<div class="row wrap">
      <${Copy} text=${() => flow.text} label=${t('copy the text')} />
      <a class="button quiet" href=${link('jobs', run.id.value)}>${t('job')} →</a></div>
      <${Code} body=${body} model=${job?.model ?? 'qwen-vl'} />`}
  </section>`;
}
