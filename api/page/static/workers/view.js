/** Workers, each with what it does, and above them the queue: how deep, how fast, how long. */
import { duration, number } from '../format.js';
import { ask } from '../api.js';
import { facts } from '../facts.js';
import { html, signal, useEffect, useSignal } from '../lib.js';
import { Ask, Empty, Failed, Id } from '../parts.js';
import { history, isStarting, queue, rate, workers } from '../shell.js';
import { t } from '../words.js';
import { Chart } from './charts.js';

const SHAPES = /** @type {Record<string, string>} */ ({ ready: '●', draining: '◑', stalled: '✕' });

/** @param {{name: string, value: any}} props */
function Fact({ name, value }) {
  return value === undefined || value === null || value === '' ? null : html`<div><dt>${t(name)}</dt><dd class="number">${value}</dd></div>`;
}

function Queue() {
  const counts = /** @type {any} */ (queue.value);
  if (!counts) return null;
  const backlogS = rate.value > 0.05 ? counts.queued / rate.value : null;
  const classes = Object.entries(counts.classes ?? {});
  return html`<section class="card" aria-label=${t('queue')}>
    <dl class="facts">
      <${Fact} name="queued" value=${number(counts.queued)} /><${Fact} name="running" value=${number(counts.running)} />
      <${Fact} name="jobs a second" value=${number(rate.value, 1)} />
      <${Fact} name="backlog" value=${counts.queued === 0 ? '0 s' : backlogS === null ? '–' : duration(1000 * backlogS)} />
      <${Fact} name="succeeded" value=${number(counts.succeeded)} /><${Fact} name="failed" value=${number(counts.failed)} /><${Fact} name="cancelled" value=${number(counts.cancelled)} />
      ${classes.map(([name, one]) => html`<${Fact} name=${name} value=${`${number(/** @type {any} */ (one).queued)}${/** @type {any} */ (one).oldest_s ? ` · ${duration(1000 * /** @type {any} */ (one).oldest_s)}` : ''}`} />`)}
    </dl>
    <div class="charts">
      <${Chart} title=${t('jobs')} lines=${[{ name: 'queued', token: 'queued', of: (/** @type {number} */ n) => history[1][n] ?? 0 }, { name: 'running', token: 'running', of: (/** @type {number} */ n) => history[2][n] ?? 0 }]} />
      <${Chart} title=${t('jobs a second')} lines=${[{ name: 'ended', token: 'succeeded', of: (/** @type {number} */ n) => history[3][n] ?? 0 }, { name: 'failed', token: 'failed', of: (/** @type {number} */ n) => history[4][n] ?? 0 }]} />
      <${Chart} title=${t('backlog in seconds')} lines=${[{ name: 'backlog', token: 'cancelled', of: (/** @type {number} */ n) => ((history[3][n] ?? 0) > 0.05 ? (history[1][n] ?? 0) / (history[3][n] ?? 1) : 0) }]} />
    </div>
    <p class="fine">${t('The charts are of what this page has seen, at most an hour.')}</p>
  </section>`;
}

/** Slots as a row of cells, where the worker says how many it has. @param {{worker: import('../shell.js').Worker}} props */
function Slots({ worker }) {
  const slots = worker.places ?? 0;
  if (!slots) return null;
  return html`<div class="slots" role="img" aria-label=${t('{n} of {all} slots used', { n: worker.jobs_in_flight, all: slots })}>${Array.from({ length: Math.min(slots, 64) }, (_, n) => html`<span class=${n < (worker.jobs_in_flight * Math.min(slots, 64)) / slots ? 'used' : ''}></span>`)}</div>`;
}

/** Whether this reader's key may administer, which the service says by answering. */
const mayDrain = signal(false);

function useRight() {
  useEffect(() => {
    mayDrain.value = false;
    if (facts.keys && !facts.read_only) ask('GET', 'v1/keys?limit=1').then(() => (mayDrain.value = true), () => {});
  }, []);
}

/** Lets a worker leave, once asked again. @param {{id: string}} props */
function Drain({ id }) {
  const asks = useSignal(false);
  const isTold = useSignal(false);
  const error = useSignal(/** @type {any} */ (null));
  const drain = () => ask('POST', `v1/workers/${id}/drain`).then(() => (isTold.value = true), (cause) => (error.value = cause));
  return html`<div class="row end"><button type="button" class="quiet" aria-label=${`${t('drain')} ${id}`} disabled=${isTold.value} onClick=${() => (asks.value = true)}>${t('drain')}</button></div>
    ${error.value && html`<${Failed} error=${error.value} />`}
    ${asks.value && html`<${Ask} title=${t('drain this worker?')} verb=${t('drain')} onYes=${drain} onClose=${() => (asks.value = false)}>
      <p>${t('It takes no more jobs, finishes those that it holds, and ends. What keeps workers running may start another in its place.')}</p></${Ask}>`}`;
}

/** @param {{worker: import('../shell.js').Worker}} props */
function Card({ worker }) {
  const engine = worker.engine ?? {};
  const phase = worker.phase;
  return html`<li class="card worker">
    <div class="row between"><${Id} id=${worker.id} /><span class="state ${phase === 'ready' ? 'succeeded' : phase === 'stalled' ? 'failed' : 'running'}"><span class="shape" aria-hidden="true">${SHAPES[phase] ?? '◐'}</span>${t(phase)}</span></div>
    ${isStarting(phase) && html`<progress aria-label=${t(phase)}></progress>`}
    <dl class="facts">
      <${Fact} name="model" value=${[worker.model, worker.checkpoint !== worker.model ? worker.checkpoint : ''].filter(Boolean).join(' · ')} />
      <${Fact} name="engine" value=${[engine.name, engine.version].filter(Boolean).join(' ')} />
      <${Fact} name="GPU" value=${worker.gpus ? number(worker.gpus) : t('none')} />
      <${Fact} name="jobs in flight" value=${number(worker.jobs_in_flight ?? 0)} />
      <${Fact} name="in the batch" value=${`${number(worker.engine_running ?? 0)}${worker.engine_running_peak ? ` / ${t('at most {n} so far', { n: number(worker.engine_running_peak) })}` : ''}`} />
      <${Fact} name="waiting" value=${number(worker.engine_waiting ?? 0)} />
      <${Fact} name="restarts" value=${worker.engine_restarts ? number(worker.engine_restarts) : undefined} />
    </dl>
    <${Slots} worker=${worker} />
    ${mayDrain.value && phase !== 'draining' && html`<${Drain} id=${worker.id} />`}
  </li>`;
}

export function Workers() {
  const list = workers.value;
  useRight();
  return html`<h1 class="sr">${t('Workers')}</h1><div class="stack"><${Queue} />
    ${list?.length === 0 && html`<section class="card"><${Empty} title=${t('No worker is running; jobs are taken, and wait.')}>
      <p>${t('Start one on a machine with GPUs:')} <code>sightline worker --gpus all</code></p>
      <p>${t('or everything on this machine:')} <code>sightline up</code></p></${Empty}></section>`}
    <ul class="cards">${list?.map((worker) => html`<${Card} key=${worker.id} worker=${worker} />`)}</ul></div>`;
}
