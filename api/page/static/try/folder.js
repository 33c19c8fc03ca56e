/** Many files: a job for each, and a table with a row for each file. */
import { ApiError } from '../api.js';
import { duration, number } from '../format.js';
import { html, signal, useSignal } from '../lib.js';
import { follow, liveness } from '../live.js';
import { State, said } from '../parts.js';
import { link } from '../route.js';
import { Rows } from '../rows.js';
import { save } from '../save.js';
import { t } from '../words.js';
import { Run } from './run.js';

const UPLOADS_AT_A_TIME = 4;

export class FolderRun {
  /** @param {import('./media.js').Item[]} items */
  constructor(items) {
    this.runs = items.map((item) => new Run([item], false));
    this.folder = folderOf(items.map((item) => item.name));
    this.counts = signal({ done: 0, failed: 0 });
    this.over = signal(false);
    this.error = signal(/** @type {any} */ (null));
    this.leaving = new AbortController();
    /** @type {Map<string, Run>} */
    this.byId = new Map();
  }

  async start() {
    // The stream is opened first: no end can be missed.
    const following = follow('v1/events', (events) => this.heard(events), this.leaving.signal).catch((error) => (this.error.value = error));
    const rest = [...this.runs];
    await Promise.all(Array.from({ length: UPLOADS_AT_A_TIME }, () => this.work(rest)));
    this.count();
    for (const run of this.byId.values()) if (!run.isOver) await this.read(run); // what ended before its id was known
    if (!this.over.value) await following;
  }

  /** @param {Run[]} rest */
  async work(rest) {
    for (let run = rest.shift(); run && !this.leaving.signal.aborted; run = rest.shift()) {
      try {
        await run.submit();
        this.byId.set(run.id.value, run);
      } catch (error) {
        run.failed(error);
      }
      this.count();
    }
  }

  /** @param {import('../sse.js').Event[]} events @returns {boolean} whether all have ended */
  heard(events) {
    for (const { type, data } of events) {
      const run = this.byId.get(data.id);
      if (run && type === 'job.running') run.state.value = 'running';
      else if (run && !run.isOver && type !== 'job.queued') this.read(run);
      else if (type === 'history_truncated') this.byId.forEach((one) => this.read(one));
    }
    return this.over.value;
  }

  /** @param {Run} run */
  async read(run) {
    try {
      await run.read();
    } catch (error) {
      if (error instanceof ApiError && error.status >= 400 && error.status < 500) run.failed(error);
    }
    this.count();
  }

  count() {
    const done = this.runs.filter((run) => run.isOver).length;
    this.counts.value = { done, failed: this.runs.filter((run) => run.state.value === 'failed').length };
    if (done < this.runs.length || this.over.value) return;
    this.over.value = true;
    said.value = t('{n} of {all} done', { n: done, all: this.runs.length });
    this.leave();
  }

  async stop() {
    const waiting = this.runs.filter((run) => !run.isOver);
    for (const run of waiting) if (!run.id.value) run.stop();
    await Promise.all(Array.from({ length: UPLOADS_AT_A_TIME }, async () => {
      for (let run = waiting.pop(); run; run = waiting.pop()) await run.stop();
    }));
    for (const run of this.runs) if (run.state.value === 'waiting') run.failed(new DOMException('stopped', 'AbortError'));
    this.count();
  }

  leave() {
    this.leaving.abort();
  }
}

/** The folder that all names begin with, which no row has to say; '' where there is none. @param {string[]} names */
function folderOf([first = '', ...others]) {
  let folder = first;
  do folder = folder.slice(0, folder.slice(0, -1).lastIndexOf('/') + 1);
  while (folder && !others.every((name) => name.startsWith(folder)));
  return folder;
}

/** @param {Run} run */
function asLine(run) {
  const { job } = { job: run.job.value };
  return {
    file: run.items[0]?.name ?? '',
    id: run.id.value || null,
    status: run.state.value,
    text: job?.output?.text ?? null,
    error: run.error.value?.code ?? null,
    ms: run.ended.value ? run.ended.value - run.began : null,
  };
}

/** @param {string} value a cell; what a spreadsheet would take for a formula is written as text */
function cell(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
}

/** @param {Run[]} runs @param {'jsonl' | 'csv'} form */
export function written(runs, form) {
  const lines = runs.map(asLine);
  if (form === 'jsonl') return lines.map((line) => `${JSON.stringify(line)}\n`).join('');
  const names = /** @type {(keyof ReturnType<typeof asLine>)[]} */ (['file', 'status', 'text', 'error', 'ms', 'id']);
  return `\ufeff${[names.join(','), ...lines.map((line) => names.map((name) => cell(String(line[name] ?? ''))).join(','))].join('\r\n')}\r\n`;
}

/** @param {{run: Run, folder: string, n: number}} props */
function Line({ run, folder, n }) {
  const state = run.state.value;
  const shown = { waiting: 'queued', uploading: 'queued' }[state] ?? state;
  const text = run.job.value?.output?.text ?? run.error.value?.message ?? '';
  const name = run.items[0]?.name ?? '';
  return html`<div role="row" aria-rowindex=${n + 2} class="file-row">
    <span role="cell" class="name" title=${name}>${run.id.value ? html`<a href=${link('jobs', run.id.value)}>${name.slice(folder.length)}</a>` : name.slice(folder.length)}</span>
    <span role="cell"><${State} state=${shown} text=${t(state)} /></span>
    <span role="cell" class="line" title=${text}>${text}</span>
    <span role="cell" class="number">${run.ended.value ? duration(run.ended.value - run.began) : ''}</span>
  </div>`;
}

/** @param {{run: FolderRun}} props */
export function Folder({ run }) {
  const onlyFailed = useSignal(false);
  const { done, failed } = run.counts.value;
  const shown = onlyFailed.value ? run.runs.filter((one) => one.state.value === 'failed') : run.runs;
  const keep = (/** @type {'jsonl' | 'csv'} */ form) => save(new Blob([written(run.runs, form)], { type: form === 'csv' ? 'text/csv' : 'application/jsonl' }), `sightline.${form}`);
  const head = ['file', 'state', 'text', 'time'].map((name) => html`<span role="columnheader">${t(name)}</span>`);
  return html`<section class="card result" aria-label=${t('answers')} data-part="folder-result">
    <div class="row between"><span class="row"><progress max=${run.runs.length} value=${done} aria-label=${t('done')}></progress>
      <span class="number">${t('{n} of {all} done', { n: number(done), all: number(run.runs.length) })}${failed > 0 && ` · ${t('{n} failed', { n: number(failed) })}`}</span>
      ${!run.over.value && liveness.value === 'reconnecting' && html`<span class="fine">${t('reconnecting')}…</span>`}</span>
      ${!run.over.value && html`<button type="button" class="danger" onClick=${() => run.stop()}>${t('Stop')}</button>`}</div>
    <div class="row wrap">
      <button type="button" class="quiet" aria-pressed=${onlyFailed.value ? 'true' : 'false'} onClick=${() => (onlyFailed.value = !onlyFailed.value)}>${t('only failed')}</button>
      <button type="button" class="quiet" onClick=${() => keep('jsonl')}>${t('download')} JSONL</button>
      <button type="button" class="quiet" onClick=${() => keep('csv')}>${t('download')} CSV</button></div>
    <${Rows} count=${shown.length} rowPx=${44} label=${t('answers')} head=${head} row=${(/** @type {number} */ n) => shown[n] && html`<${Line} key=${shown[n].token} run=${shown[n]} folder=${run.folder} n=${n} />`} />
  </section>`;
}
