/** Batches: OpenAI's files of chats, with progress and time left. */
import { ask, upload } from '../api.js';
import { facts } from '../facts.js';
import { duration, now, number } from '../format.js';
import { html, useRef, useSignal } from '../lib.js';
import { Ago, Ask, Id, State } from '../parts.js';
import { t } from '../words.js';
import { saveFile } from './files.js';
import { ListingFoot, useListing } from './listing.js';

const OPEN = new Set(['validating', 'in_progress', 'finalizing', 'cancelling']);
const STATES = /** @type {Record<string, string>} */ ({ completed: 'succeeded', failed: 'failed', expired: 'failed', cancelled: 'cancelled', cancelling: 'cancelled' });
const LOOK_EVERY_MS = 3000;

/** How long the rest takes, if it goes on as until now. @param {any} batch @returns {number | null} milliseconds */
function leftMs(batch) {
  const { total, completed, failed } = batch.request_counts ?? {};
  const done = completed + failed;
  const ranMs = now.value - 1000 * (batch.in_progress_at ?? batch.created_at);
  return batch.status === 'in_progress' && !batch.errors && done > 0 && ranMs > 0 ? (ranMs / done) * (total - done) : null;
}

/** @param {{one: any, listing: import('./listing.js').Listing}} props */
function Batch({ one, listing }) {
  const asks = useSignal(false);
  const { total = 0, completed = 0, failed = 0 } = one.request_counts ?? {};
  const left = leftMs(one);
  const fetchIt = (/** @type {string} */ id, /** @type {string} */ name) => saveFile(id, name).catch((error) => (listing.error.value = error));
  return html`<li class="item"><div class="row between wrap"><span class="row wrap"><${State} state=${STATES[one.status] ?? 'running'} text=${t(one.status)} />
      ${total > 0 && html`<progress max=${total} value=${completed + failed} aria-label=${t('done')}></progress>`}
      ${total > 0 && html`<span class="number">${t('{n} of {all} done', { n: number(completed + failed), all: number(total) })}${failed ? ` · ${t('{n} failed', { n: number(failed) })}` : ''}${left === null ? '' : ` · ${t('{time} left', { time: duration(left) })}`}</span>`}</span>
      <span class="row"><span class="fine"><${Ago} at=${one.created_at} /></span><${Id} id=${one.id} /></span></div>
    ${one.errors?.data?.slice(0, 5).map((/** @type {any} */ error) => html`<p class="wrong">${error.line ? `${error.line}: ` : ''}${error.message} <code>${error.code}</code></p>`)}
    <div class="row wrap">
      ${one.output_file_id && html`<button type="button" class="quiet" onClick=${() => fetchIt(one.output_file_id, `${one.id}.jsonl`)}>${t('save the answers')}</button>`}
      ${one.error_file_id && html`<button type="button" class="quiet" onClick=${() => fetchIt(one.error_file_id, `${one.id}-errors.jsonl`)}>${t('save the errors')}</button>`}
      ${OPEN.has(one.status) && one.status !== 'cancelling' && !facts.read_only && html`<button type="button" class="quiet" onClick=${() => (asks.value = true)}>${t('cancel')}</button>`}</div>
    ${asks.value && html`<${Ask} title=${t('cancel this batch?')} verb=${t('cancel the batch')} onYes=${() => listing.act('POST', `v1/batches/${one.id}/cancel`)} onClose=${() => (asks.value = false)}><p>${t('What is done is kept and written out.')}</p></${Ask}>`}
  </li>`;
}

export function Batches() {
  const listing = useListing('v1/batches', LOOK_EVERY_MS);
  const file = useRef(/** @type {HTMLInputElement | null} */ (null));
  const share = useSignal(/** @type {number | null} */ (null));
  const onChoose = async (/** @type {any} */ event) => {
    const chosen = event.target.files[0];
    event.target.value = '';
    if (!chosen) return;
    try {
      share.value = 0;
      const sent = await upload(chosen, chosen.name, { purpose: 'batch', onProgress: (part) => (share.value = part) });
      await ask('POST', 'v1/batches', { input_file_id: sent.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
      await listing.read();
    } catch (error) {
      listing.error.value = error;
    }
    share.value = null;
  };
  return html`<section class="card" id="batches"><div class="row between"><h2>${t('Batches')}</h2>${!facts.read_only && html`<button type="button" disabled=${share.value !== null} onClick=${() => file.current?.click()}>${t('new, from a JSONL')}</button>`}</div>
    <input ref=${file} class="sr" type="file" accept=".jsonl,application/jsonl" tabindex="-1" aria-hidden="true" data-part="batch" onChange=${onChoose} />
    ${share.value !== null && html`<progress max="1" value=${share.value} aria-label=${t('uploading')}></progress>`}
    ${listing.items.value?.length === 0 && html`<p class="fine">${t('A batch is a file with a chat in each line; everything else goes before it. There is none yet.')}</p>`}
    <ul class="items">${listing.items.value?.map((one) => html`<${Batch} key=${one.id} one=${one} listing=${listing} />`)}</ul><${ListingFoot} listing=${listing} /></section>`;
}
