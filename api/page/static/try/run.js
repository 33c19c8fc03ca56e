/** One job from the page: upload, submit, follow, stop. */
import { ApiError, ask, newToken } from '../api.js';
import { batch, signal } from '../lib.js';
import { follow, pause } from '../live.js';
import { said } from '../parts.js';
import { t } from '../words.js';
import { TextFlow } from './flow.js';
import { request } from './form.js';
import { send } from './media.js';

/** @typedef {import('./media.js').Item} Item */

/** A service that is full is asked again by itself; one that says to come tomorrow is not. */
const LONGEST_WAIT_S = 120;
const FINAL = new Set(['succeeded', 'failed', 'cancelled']);

export class Run {
  /** @param {Item[]} items what it is about @param {boolean} [watched] whether its text is read while it is generated */
  constructor(items, watched = true) {
    this.items = items;
    this.watched = watched;
    this.state = signal('waiting'); // uploading, queued, running, then as the job ended
    this.progress = signal(0);
    this.stage = signal('');
    /** Why it was not taken yet, and is sent again by itself. */
    this.held = signal(/** @type {any} */ (null));
    this.attempt = signal(0);
    this.id = signal('');
    this.job = signal(/** @type {any} */ (null));
    this.error = signal(/** @type {any} */ (null));
    this.began = Date.now();
    this.ended = signal(0);
    this.flow = new TextFlow();
    /** What happened, without the text: events that say when. */
    this.happened = signal(/** @type {import('../sse.js').Event[]} */ ([]));
    /** The time, while it is looked at and runs. */
    this.now = signal(Date.now());
    /** @type {any} the body that was sent */
    this.body = null;
    this.token = newToken();
    this.stopping = new AbortController();
  }

  get isOver() {
    return FINAL.has(this.state.value);
  }

  /** Upload and submit; where there is no room, come again when the service says so. */
  async submit() {
    this.state.value = 'uploading';
    const sent = this.items.map(() => 0);
    const refs = [];
    for (const [n, item] of this.items.entries()) {
      const onProgress = (/** @type {number} */ share) => {
        sent[n] = share;
        this.progress.value = sent.reduce((sum, one) => sum + one, 0) / sent.length;
      };
      refs.push(await send(item, { signal: this.stopping.signal, onProgress }));
      sent[n] = 1;
    }
    this.body ??= request(this.items, refs);
    this.state.value = 'queued';
    for (;;) {
      try {
        const job = await ask('POST', 'v1/jobs', this.body, { idempotencyKey: this.token, watch: this.watched, signal: this.stopping.signal });
        this.id.value = job.id;
        this.held.value = null;
        return this.took(job);
      } catch (error) {
        const wait = error instanceof ApiError && [429, 503].includes(error.status) ? error.retryAfterS : null;
        if (!wait || wait > LONGEST_WAIT_S) throw error;
        this.held.value = error;
        await pause(1000 * wait, this.stopping.signal);
        this.stopping.signal.throwIfAborted();
      }
    }
  }

  /** Run it and show its text as it is generated. */
  async start() {
    try {
      await this.submit();
      if (!this.isOver) await follow(`v1/jobs/${this.id.value}/events`, (events) => events.some((event) => this.heard(event)), this.stopping.signal);
      if (!this.isOver && !this.stopping.signal.aborted) await this.read();
    } catch (error) {
      this.failed(error);
    }
  }

  /** Look at a job that is there. @param {string} id */
  async resume(id) {
    const clock = setInterval(() => (this.now.value = Date.now()), 200);
    try {
      this.error.value = null;
      const job = await ask('GET', `v1/jobs/${id}`, undefined, { signal: this.stopping.signal });
      this.id.value = id;
      this.began = job.created_at * 1000;
      this.took(job);
      if (job.finished_at) this.ended.value = job.finished_at * 1000;
      await follow(`v1/jobs/${id}/events`, (events) => events.some((event) => this.heard(event)), this.stopping.signal);
    } catch (error) {
      if (!this.stopping.signal.aborted) this.error.value = error;
    } finally {
      clearInterval(clock);
    }
  }

  /** Read the job as it stands. */
  async read() {
    if (this.id.value && !this.isOver) this.took(await ask('GET', `v1/jobs/${this.id.value}`));
  }

  /** @param {import('../sse.js').Event} event @returns {boolean} whether it was the last one */
  heard(event) {
    const { type, data } = event;
    if (this.isOver && (type === 'job.delta' || type === 'job.reset')) return false; // its whole text is there
    if (Number.isFinite(data.after_ms)) this.happened.value = [...this.happened.value, event];
    if (this.isOver) return FINAL.has(type.replace('job.', ''));
    if (type === 'job.delta') this.flow.append(data.text);
    else if (type === 'job.reset') this.flow.reset();
    else if (type === 'job.stage') this.stage.value = data.stage;
    else if (type === 'job.running') batch(() => ((this.state.value = 'running'), (this.attempt.value = data.attempt ?? 1)));
    else if (type === 'job.queued') this.state.value = 'queued';
    if (!FINAL.has(type.replace('job.', ''))) return false;
    this.took(data);
    return true;
  }

  /** @param {any} job as the API shows it */
  took(job) {
    batch(() => {
      this.job.value = job;
      this.state.value = job.status;
      this.stage.value = job.stage ?? '';
      this.attempt.value = job.attempt;
      if (!FINAL.has(job.status)) return;
      if (job.output) this.flow.become(job.output.text);
      this.error.value = job.status === 'cancelled' ? null : job.error; // whoever cancelled it knows
      this.ended.value = Date.now();
      if (this.watched) said.value = `${t(job.status)}${job.output ? `: ${job.output.text.slice(0, 200)}` : ''}`;
    });
  }

  /** @param {unknown} error */
  failed(error) {
    const stopped = error instanceof DOMException && error.name === 'AbortError';
    batch(() => {
      this.state.value = stopped ? 'cancelled' : 'failed';
      this.error.value = stopped ? null : error;
      this.ended.value = Date.now();
    });
  }

  /** Stop it; what there is of its text stays. */
  async stop() {
    if (this.isOver) return;
    if (!this.id.value) {
      this.stopping.abort();
      return;
    }
    try {
      this.took(await ask('POST', `v1/jobs/${this.id.value}/cancel`));
    } catch (error) {
      if (error instanceof ApiError && error.job) this.took(error.job); // it ended before
      else if (!(error instanceof ApiError && error.status === 409)) this.error.value = error;
    }
  }

  /** Let go of it: the reader has turned to something else. The job goes on. */
  leave() {
    this.stopping.abort();
  }
}
