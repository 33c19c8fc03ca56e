/** Keys: the one of this tab, and where this reader may, all of them. */
import { key, useKey } from '../api.js';
import { facts } from '../facts.js';
import { html, useSignal } from '../lib.js';
import { Ago, Ask, Id } from '../parts.js';
import { t } from '../words.js';
import { KeyForm, limitsOf } from './key_form.js';
import { ListingFoot, useListing } from './listing.js';
import { Secret } from './secret.js';

/** What stands above the list; `onNew` where this reader may make keys. @param {{onNew?: () => void}} props */
function Head({ onNew }) {
  return html`<div class="row between"><h2>${t('Keys')}</h2>${onNew && !facts.read_only && html`<button type="button" onClick=${onNew}>${t('new key')}</button>`}</div><${Own} />`;
}

function Own() {
  if (!facts.keys) return html`<p class="fine">${t('This service asks for no key: whoever can reach it may use it.')}</p>`;
  return html`<div class="row wrap"><span>${t('This tab uses a key that ends in')} <code>…${key.value?.slice(-4)}</code></span><button type="button" onClick=${() => useKey(null)}>${t('Sign out')}</button></div>`;
}

/** Whether a key is the one of this tab, whose secret has its id in it. @param {any} one */
const isOwn = (one) => one.id === `key_${key.value?.split('-')[2]}`;

/** @param {{one: any, listing: import('./listing.js').Listing}} props */
function Key({ one, listing }) {
  const limits = useSignal(false);
  const asks = useSignal(false);
  const onSet = () => {
    limits.value = false;
    listing.read();
  };
  const revoke = async () => {
    const own = isOwn(one);
    if ((await listing.act('DELETE', `v1/keys/${one.id}`)) && own) useKey(null);
  };
  const told = [...(isOwn(one) ? [t('the key of this tab')] : []), ...(one.admin ? [t('may administer')] : []), ...limitsOf(one)];
  return html`<li class="item file"><strong class="grow">${one.name}</strong><span class="fine">${told.join(' · ')}</span><span class="fine"><${Ago} at=${one.created_at} /></span><${Id} id=${one.id} />
    ${!facts.read_only && html`<span class="row"><button type="button" class="quiet" aria-label=${`${t('limits')} ${one.name}`} onClick=${() => (limits.value = true)}>${t('limits')}</button><button type="button" class="quiet" aria-label=${`${t('revoke')} ${one.name}`} onClick=${() => (asks.value = true)}>${t('revoke')}</button></span>`}
    ${limits.value && html`<${KeyForm} one=${one} onDone=${onSet} onClose=${() => (limits.value = false)} />`}
    ${asks.value && html`<${Ask} title=${t('revoke this key?')} verb=${t('revoke')} onYes=${revoke} onClose=${() => (asks.value = false)}><p>${one.name}</p><p>${t('It is valid no more at once; its jobs run on.')}</p></${Ask}>`}
  </li>`;
}

/** Keys as an administrator sees them. */
function All() {
  const listing = useListing('v1/keys');
  const makes = useSignal(false);
  const secret = useSignal('');
  const onMade = (/** @type {any} */ made) => {
    makes.value = false;
    secret.value = made.secret;
    listing.read();
  };
  if (listing.error.value?.status === 403) return html`<${Head} /><p class="fine">${t('This key may not see the others; one with the right to administer may.')} <code>sightline keys create NAME --admin</code></p>`;
  return html`<${Head} onNew=${() => (makes.value = true)} /><ul class="items">${listing.items.value?.map((one) => html`<${Key} key=${one.id} one=${one} listing=${listing} />`)}</ul>
    <${ListingFoot} listing=${listing} />
    ${makes.value && html`<${KeyForm} onDone=${onMade} onClose=${() => (makes.value = false)} />`}
    ${secret.value && html`<${Secret} title=${t('The new key')} about=${t('It is shown this once.')} secret=${secret.value} onClose=${() => (secret.value = '')} />`}`;
}

export function Keys() {
  if (facts.keys) return html`<section class="card" id="keys"><${All} /></section>`;
  return html`<section class="card" id="keys"><${Head} />
    <p class="fine">${t('Keys are made, listed and revoked where the service runs:')} <code>sightline keys create NAME</code>, <code>sightline keys list</code>, <code>sightline keys revoke ID</code></p></section>`;
}
