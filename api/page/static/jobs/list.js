/** Jobs: filters, the live list, and what can be done with many of them. */
import { ask } from '../api.js';
import { facts } from '../facts.js';
import { duration, number } from '../format.js';
import { html, useEffect, useMemo, useSignal, useSignalEffect } from '../lib.js';
import { liveness } from '../live.js';
import { Ago, Ask, Empty, Failed, Id, State, said } from '../parts.js';
import { link, refine, route } from '../route.js';
import { Rows } from '../rows.js';
import { queue } from '../shell.js';
import { SmallPicture, recall } from '../try/earlier.js';
import { t } from '../words.js';
import { Help, useKeys } from './keys.js';
import { MoreFilters } from './more_filters.js';
import { JobList } from './store.js';

const STATES = ['queued', 'running', 'succeeded', 'failed', 'cancelled'];
const ROW_PX = 44;
const CANCELS_AT_A_TIME = 4;

/** @param {{list: JobList}} props */
function Filters({ list }) {
  const { query } = route.value;
  const counts = list.counts.value ?? (facts.keys ? null : queue.value);
  const chosen = query.status ?? '';
  const search = useSignal(query.q ?? '');
  useEffect(() => {
    const timer = setTimeout(() => search.value !== (route.peek().query.q ?? '') && refine({ q: search.value }), 250);
    return () => clearTimeout(timer);
  }, [search.value]);
  return html`<div class="filters">
    <div class="row wrap" role="group" aria-label=${t('state')}>
      <button type="button" class="chip" aria-pressed=${chosen ? 'false' : 'true'} onClick=${() => refine({ status: '' })}>${t('all')}</button>
      ${STATES.map((state) => html`<button type="button" class="chip" aria-pressed=${chosen === state ? 'true' : 'false'} onClick=${() => refine({ status: chosen === state ? '' : state })}><${State} state=${state} />${counts && html` <span class="number">${number(/** @type {any} */ (counts)[state] ?? 0)}</span>`}</button>`)}
    </div>
    <input class="search" type="search" placeholder=${t('words in prompt or metadata')} aria-label=${t('search')} value=${search} onInput=${(/** @type {any} */ event) => (search.value = event.target.value)} />
    <${MoreFilters} />
  </div>`;
}

/** @param {{list: JobList}} props */
function Live({ list }) {
  const paused = list.paused.value;
  const words = paused ? 'paused' : liveness.value === 'live' ? 'live' : 'reconnecting';
  return html`<div class="row"><button type="button" class="quiet live ${words}" aria-pressed=${paused ? 'true' : 'false'} title=${t('space')} onClick=${() => list.pause(!paused)}><span aria-hidden="true">${{ paused: '‖', live: '●', reconnecting: '◌' }[words]}</span> ${t(words)}</button>
    ${list.held.value.length > 0 && html`<button type="button" class="quiet" onClick=${() => list.release()}>${t('{n} new', { n: number(list.held.value.length) })} ↑</button>`}</div>`;
}

/** @param {{list: JobList, id: string, n: number, current: boolean, chosen: boolean, onChoose: () => void}} props */
function Row({ list, id, n, current, chosen, onChoose }) {
  const job = list.jobs.get(id)?.value;
  if (!job) return null;
  const past = recall(id);
  const file = typeof job.metadata?.file === 'string' ? job.metadata.file : '';
  const line = job.output?.text || job.error?.message || (job.stage && t(job.stage)) || past?.body?.prompt || file;
  const ms = job.started_at ? ((job.finished_at ?? job.started_at) - job.started_at) * 1000 : 0;
  return html`<div role="row" aria-rowindex=${n + 2} class="job-row ${current ? 'current' : ''}" aria-selected=${chosen ? 'true' : 'false'}>
    <span role="cell">${!facts.read_only && html`<input type="checkbox" aria-label=${t('select {id}', { id })} checked=${chosen} onChange=${onChoose} />`}</span>
    <span role="cell"><${State} state=${job.status} /></span>
    <span role="cell" class="what">${past?.thumb && html`<${SmallPicture} thumb=${past.thumb} />`}<a id=${`job-${id}`} class="line ${job.status === 'failed' ? 'wrong' : ''}" href=${link('jobs', id)}>${line ? line.slice(0, 300) : id}</a></span>
    <span role="cell" class="wide-only"><${Id} id=${id} /></span>
    <span role="cell" class="number wide-only">${job.attempt > 1 ? `× ${job.attempt}` : ''}</span>
    <span role="cell" class="number wide-only">${job.finished_at && ms ? duration(ms) : ''}</span>
    <span role="cell" class="fine"><${Ago} at=${job.created_at} /></span>
  </div>`;
}

/** Cancel some jobs, a few at a time. @param {string[]} ids @param {JobList} list */
async function cancelAll(ids, list) {
  const rest = [...ids];
  let done = 0;
  await Promise.all(Array.from({ length: CANCELS_AT_A_TIME }, async () => {
    for (let id = rest.pop(); id; id = rest.pop()) {
      try {
        list.put(await ask('POST', `v1/jobs/${id}/cancel`));
        done += 1;
      } catch {
        list.stale.add(id); // it ended before
      }
    }
  }));
  list.refresh();
  said.value = t('{n} cancelled', { n: done });
}

/** What can be done with all that match: counted first, then asked for, and told how it went. @param {{list: JobList}} props */
function Bulk({ list }) {
  const asked = useSignal(/** @type {{verb: string, matched: number} | null} */ (null));
  const error = useSignal(/** @type {any} */ (null));
  const told = useSignal('');
  const works = useSignal(false);
  if (facts.read_only) return null;
  const send = async (/** @type {string} */ verb, /** @type {boolean} */ dry) => {
    error.value = null;
    told.value = '';
    works.value = true;
    try {
      const answer = await ask('POST', `v1/jobs/${verb}`, { filter: list.filter, dry_run: dry });
      if (dry && answer.matched) asked.value = { verb, matched: answer.matched };
      else told.value = said.value = dry ? t(`nothing to ${verb}`) : t(`${verb}: {done} of {n}`, { done: number(answer.done), n: number(answer.matched) });
      error.value = answer.error ?? null; // why not all of them were
      if (!dry) list.look();
    } catch (cause) {
      error.value = cause;
    }
    works.value = false;
  };
  return html`<span class="fine">${works.value ? '…' : told.value}</span>
    ${['cancel', 'retry'].map((verb) => html`<button type="button" class="quiet" disabled=${works.value} onClick=${() => send(verb, true)}>${t(`${verb} all that match`)}</button>`)}
    ${error.value && html`<${Failed} error=${error.value} />`}
    ${asked.value && html`<${Ask} title=${t('{n} match', { n: number(asked.value.matched) })} verb=${t(`${asked.value.verb} them`)} onYes=${() => asked.value && send(asked.value.verb, false)} onClose=${() => (asked.value = null)}><p>${t(`${asked.value.verb} all of them?`)}</p></${Ask}>`}`;
}

export function Jobs() {
  const { query } = route.value;
  const list = useMemo(() => new JobList(query), [JSON.stringify(query)]);
  const at = useSignal(-1);
  const chosen = useSignal(/** @type {Set<string>} */ (new Set()));
  const asks = useSignal(/** @type {string[] | null} */ (null));
  const helps = useSignal(false);
  const seen = useSignal([0, 0]);
  useEffect(() => {
    list.open();
    return () => list.close();
  }, [list]);
  useSignalEffect(() => {
    const [first = 0, last = 0] = seen.value;
    list.mend(list.order.value.slice(first, last));
  });
  const choose = (/** @type {string} */ id) => {
    const next = new Set(chosen.value);
    if (!next.delete(id)) next.add(id);
    chosen.value = next;
  };
  const order = list.order.value;
  const here = () => list.order.value[at.value] ?? ''; // as it is when a key comes, which may be before the next frame
  useKeys({ list, at, helps, onSelect: () => here() && choose(here()), onCancel: () => (asks.value = chosen.value.size ? [...chosen.value] : here() ? [here()] : null) });
  const names = ['', 'state', 'text', 'id', 'attempt', 'time', 'age'];
  const head = names.map((name) => html`<span role="columnheader" class=${['id', 'attempt', 'time'].includes(name) ? 'wide-only' : ''}>${name ? t(name) : html`<span class="sr">${t('select')}</span>`}</span>`);
  const empty = order.length === 0 && !list.loading.value && list.ended.value;
  return html`<h1 class="sr">${t('Jobs')}</h1><section class="card jobs" aria-label=${t('Jobs')}>
    <${Filters} list=${list} key=${query.status} />
    <div class="row between"><${Live} list=${list} /><div class="row wrap">
      ${chosen.value.size > 0 && html`<button type="button" class="danger" onClick=${() => (asks.value = [...chosen.value])}>${t('cancel {n} jobs', { n: chosen.value.size })}</button>`}
      <${Bulk} list=${list} /><button type="button" class="quiet wide-only" onClick=${() => (helps.value = true)} aria-label=${t('keys')}>?</button></div></div>
    ${list.error.value && html`<${Failed} error=${list.error.value} again=${() => list.more()} />`}
    ${empty ? html`<${Empty} title=${Object.keys(query).length ? t('No job matches.') : t('No jobs yet.')}>${!facts.read_only && html`<p><a href=${link('try')}>${t('Describe a picture')}</a></p>`}</${Empty}>` : html`<${Rows} count=${order.length} rowPx=${ROW_PX} label=${t('Jobs')} head=${head} at=${at.value}
      onEnd=${() => list.more()} onScroll=${(/** @type {number} */ top) => hold(list, top > ROW_PX)} onSeen=${(/** @type {number} */ first, /** @type {number} */ last) => (seen.value = [first, last])}
      row=${(/** @type {number} */ n) => html`<${Row} key=${order[n]} list=${list} id=${order[n]} n=${n} current=${n === at.value} chosen=${chosen.value.has(order[n] ?? '')} onChoose=${() => choose(order[n] ?? '')} />`} />`}
    ${asks.value && html`<${Ask} title=${t('cancel {n} jobs', { n: asks.value.length })} verb=${t('cancel them')} onYes=${() => {
      const ids = asks.value ?? [];
      chosen.value = new Set();
      cancelAll(ids, list);
    }} onClose=${() => (asks.value = null)}><p>${t('What there is of their text stays.')}</p></${Ask}>`}
    ${helps.value && html`<${Help} onClose=${() => (helps.value = false)} />`}
  </section>`;
}

/** Nothing moves under a reader who has scrolled. @param {JobList} list @param {boolean} on */
function hold(list, on) {
  if (list.holds.value === on) return;
  list.holds.value = on;
  if (!on) list.release();
}
