/** Stored files: how large, until when; save, delete. */
import { bytes } from '../api.js';
import { facts } from '../facts.js';
import { size } from '../format.js';
import { html, useSignal } from '../lib.js';
import { Ago, Ask, Id } from '../parts.js';
import { save } from '../save.js';
import { t } from '../words.js';
import { ListingFoot, useListing } from './listing.js';

/** Batches write files, too. */
const LOOK_EVERY_MS = 10_000;

/** Fetch a file with the reader's key, and give it to them. @param {string} id @param {string} name */
export async function saveFile(id, name) {
  save(await bytes(`v1/files/${id}/content`), name);
}

/** @param {{one: any, listing: import('./listing.js').Listing}} props */
function File({ one, listing }) {
  const asks = useSignal(false);
  const fetchIt = () => saveFile(one.id, one.filename || one.id).catch((error) => (listing.error.value = error));
  return html`<li class="item file"><span class="line grow" title=${one.filename}>${one.filename || '–'}</span><span class="fine">${one.media_type}</span><span class="number">${size(one.bytes)}</span><span class="fine">${t('expires')} <${Ago} at=${one.expires_at} /></span><${Id} id=${one.id} />
    <span class="row"><button type="button" class="quiet" onClick=${fetchIt}>${t('save')}</button>${!facts.read_only && html`<button type="button" class="quiet" aria-label=${`${t('delete')} ${one.filename}`} onClick=${() => (asks.value = true)}>${t('delete')}</button>`}</span>
    ${asks.value && html`<${Ask} title=${t('delete this file?')} verb=${t('delete')} onYes=${() => listing.act('DELETE', `v1/files/${one.id}`)} onClose=${() => (asks.value = false)}><p>${one.filename}</p><p>${t('Jobs that name it and have not read it fail.')}</p></${Ask}>`}
  </li>`;
}

export function Files() {
  const listing = useListing('v1/files', LOOK_EVERY_MS);
  const items = listing.items.value;
  const sum = items?.reduce((all, one) => all + one.bytes, 0) ?? 0;
  return html`<section class="card" id="files"><div class="row between"><h2>${t('Files')}</h2>${items && html`<span class="fine">${items.length}${listing.more.value ? '+' : ''} · ${size(sum)}</span>`}</div>
    ${items?.length === 0 && html`<p class="fine">${t('No file is stored.')}</p>`}
    <ul class="items">${items?.map((one) => html`<${File} key=${one.id} one=${one} listing=${listing} />`)}</ul><${ListingFoot} listing=${listing} /></section>`;
}
