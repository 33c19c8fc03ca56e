/** The jobs that the list shows: pages read on demand, and what the stream of events says of them. */
import { ask } from '../api.js';
import { batch, signal } from '../lib.js';
import { follow } from '../live.js';

/** @typedef {{id: string, status: string, created_at: number, [name: string]: any}} Job */
/** @typedef {Record<string, string>} Query */

const PAGE = 100;
/** Rows that the first look asks for: more than a screen has, and there sooner. */
const FIRST_PAGE = 40;
const REFRESH_MS = 1000;
const MOST_PAGES_AT_ONCE = 5;
/** Rows that are kept: what a reader scrolls through; what fell off the end is read again. */
const KEPT = 20_000;
const READS_AT_A_TIME = 4;
/** Pages without a row that fits, one after another, before a reader has to ask for more: each had 1,000 jobs looked at. */
const MOST_MISSES = 20;
/** Filters for which the server looks at records: what fits is not counted beforehand. */
const LOOKED_AT = ['class', 'model', 'code', 'q'];
const FILTERS = ['status', 'class', 'group', 'model', 'code', 'since', 'until', 'q'];

export class JobList {
  /** @param {Query} query */
  constructor(query) {
    this.query = query;
    /** @type {Map<string, import('../lib.js').Signal<Job>>} */
    this.jobs = new Map();
    this.order = signal(/** @type {string[]} */ ([]));
    /** Newer ones that are held back while the reader reads. */
    this.held = signal(/** @type {string[]} */ ([]));
    this.holds = signal(false);
    this.paused = signal(false);
    this.ended = signal(false);
    this.loading = signal(false);
    this.error = signal(/** @type {any} */ (null));
    this.counts = signal(/** @type {Record<string, number> | null} */ (null));
    this.last = '';
    this.stale = new Set();
    this.closing = new AbortController();
    this.refreshing = false;
    this.again = false;
    this.misses = 0;
    /** @type {Map<string, string>} what events said since the last frame */
    this.heard = new Map();
  }

  /** What the address bar asks for, as the API takes it. */
  get filter() {
    return Object.fromEntries(FILTERS.filter((name) => this.query[name]).map((name) => [name, this.query[name] ?? '']));
  }

  /** @param {string} after */
  async page(after) {
    const search = new URLSearchParams({ limit: String(this.order.value.length ? PAGE : FIRST_PAGE), ...this.filter });
    if (after) search.set('after', after);
    else if (!LOOKED_AT.some((name) => search.has(name))) search.set('counts', 'true');
    const page = await ask('GET', `v1/jobs?${search}`, undefined, { signal: this.closing.signal });
    if (page.counts) this.counts.value = page.counts;
    return page;
  }

  async open() {
    await this.more();
    follow('v1/events', (events) => this.hear(events), this.closing.signal).catch((error) => (this.error.value = error));
  }

  close() {
    this.closing.abort();
  }

  /** Read the next page of older jobs. */
  async more() {
    if (this.loading.value || this.ended.value || this.closing.signal.aborted) return;
    this.loading.value = true;
    try {
      let found = 0;
      for (let misses = 0; !found && misses < MOST_MISSES && !this.ended.value; misses += 1) {
        const page = await this.page(this.last);
        batch(() => {
          const added = page.data.filter((/** @type {Job} */ job) => this.put(job)).map((/** @type {Job} */ job) => job.id);
          this.order.value = [...this.order.value, ...added];
          this.ended.value = !page.has_more;
          this.error.value = null;
        });
        this.last = page.last_id ?? this.last;
        found += page.data.length;
      }
    } catch (error) {
      if (!this.closing.signal.aborted) this.error.value = error;
    } finally {
      this.loading.value = false;
    }
  }

  /** @param {Job} job @returns {boolean} whether it is new here */
  put(job) {
    const known = this.jobs.get(job.id);
    this.stale.delete(job.id);
    if (known) {
      if (known.value.status !== job.status || known.value.stage !== job.stage || known.value.attempt !== job.attempt || !known.value.output !== !job.output) known.value = job;
      return false;
    }
    this.jobs.set(job.id, signal(job));
    return true;
  }

  /** @param {import('../sse.js').Event[]} events */
  hear(events) {
    if (!this.heard.size) requestAnimationFrame(() => this.apply());
    for (const { type, data } of events) if (data.id && type.startsWith('job.')) this.heard.set(data.id, type.slice(4));
      else this.heard.set('', ''); // the feed was opened again, or has a gap: look at the newest page
  }

  /** Take in what was heard since the last frame, all of it at once. */
  apply() {
    const heard = this.heard;
    this.heard = new Map();
    if (this.paused.value) {
      this.again = true;
      return;
    }
    batch(() => {
      for (const [id, status] of heard) {
        const known = this.jobs.get(id);
        if (!known) this.again = true;
        else if (known.value.status !== status) {
          known.value = { ...known.value, status };
          this.stale.add(id);
        }
      }
    });
    this.refresh();
  }

  /** Look again, though no event told of anything. */
  look() {
    this.again = true;
    this.refresh();
  }

  /** Read the newest jobs: at most once a second, however much happens. */
  async refresh() {
    if (this.refreshing || this.closing.signal.aborted) return;
    this.refreshing = true;
    try {
      if (this.again || this.stale.size) {
        this.again = false;
        await this.readNewest();
      }
    } catch {
      this.again = true; // the stream says when the gateway is back
    }
    setTimeout(() => {
      this.refreshing = false;
      if (this.again && !this.paused.value) this.refresh();
    }, REFRESH_MS);
  }

  async readNewest() {
    /** @type {Job[]} */
    const fresh = [];
    let after = '';
    for (let pages = 0; pages < MOST_PAGES_AT_ONCE; pages += 1) {
      const page = await this.page(after);
      if (this.paused.value) return;
      fresh.push(...page.data);
      if (!page.has_more || !this.jobs.size || page.data.some((/** @type {Job} */ job) => this.jobs.has(job.id))) break;
      after = page.last_id;
    }
    const oldest = this.ended.value ? 0 : this.made(this.order.value.at(-1)); // what is older comes with its page
    batch(() => {
      const added = fresh.filter((job) => job.created_at >= oldest && this.put(job)).map((job) => job.id);
      if (added.length && this.holds.value) this.held.value = this.keep([...added, ...this.held.value]);
      else if (added.length) this.show(added);
    });
  }

  /** Forget those that are too many. @param {string[]} ids the newest first */
  keep(ids) {
    for (const id of ids.splice(KEPT)) {
      this.jobs.delete(id);
      this.stale.delete(id);
    }
    return ids;
  }

  /** When a job was created, in seconds; 0 where it is not kept. @param {string} [id] */
  made(id) {
    return this.jobs.get(id ?? '')?.peek().created_at ?? 0;
  }

  /** @param {string[]} added the newest first; with a filter some may belong further down */
  show(added) {
    const order = [...added, ...this.order.value];
    if (this.made(added.at(-1)) < this.made(this.order.value[0])) order.sort((a, b) => this.made(b) - this.made(a) || (a < b ? 1 : -1));
    this.keep(order);
    if (order.length === KEPT) {
      this.last = order.at(-1) ?? '';
      this.ended.value = false;
    }
    this.order.value = order;
  }

  /** Show the newer ones that were held back. */
  release() {
    const held = this.held.value;
    batch(() => {
      this.held.value = [];
      if (held.length) this.show(held);
    });
  }

  /** Read again what events have overtaken, of the rows in sight. @param {string[]} ids */
  async mend(ids) {
    const old = ids.filter((id) => this.stale.has(id)).slice(0, 3 * READS_AT_A_TIME);
    old.forEach((id) => this.stale.delete(id));
    await Promise.all(Array.from({ length: READS_AT_A_TIME }, async () => {
      for (let id = old.pop(); id; id = old.pop()) await ask('GET', `v1/jobs/${id}`, undefined, { signal: this.closing.signal }).then((job) => this.put(job), () => {});
    }));
  }

  /** @param {boolean} on */
  pause(on) {
    this.paused.value = on;
    if (!on && this.again) this.refresh();
  }
}
