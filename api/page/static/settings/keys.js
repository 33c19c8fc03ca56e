/** Keys: the one of this tab, and where the API has them and this reader may, all of them. */
import { key, useKey } from '../api.js';
import { facts } from '../facts.js';
import { number } from '../format.js';
import { html, useSignal } from '../lib.js';
import { offers } from '../offers.js';
import { Ask, Copy, Dialog, Id } from '../parts.js';
import { t } from '../words.js';
import { ListingFoot, useListing } from './listing.js';

function Own() {
  if (!facts.keys) return html`<p class="fine">${t('This service asks for no key: whoever can reach it may use it.')}</p>`;
  return html`<div class="row wrap"><span>${t('This tab uses a key that ends in')} <code>…${key.value?.slice(-4)}</code></span><button type="button" onClick=${() => useKey(null)}>${t('Sign out')}</button></div>`;
}

const LIMITS = [
  ['max_requests', 'requests a minute'],
  ['max_queued', 'jobs queued'],
  ['max_running', 'jobs running'],
  ['max_jobs_day', 'jobs a day'],
  ['max_vision_tokens_day', 'vision tokens a day'],
];

/** Keys as an administrator sees them. */
function All() {
  const listing = useListing('v1/keys');
  const name = useSignal('');
  const secret = useSignal('');
  const revokes = useSignal(/** @type {any} */ (null));
  const make = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const made = await listing.act('POST', 'v1/keys', { name: name.value });
    if (made) secret.value = made.secret;
    name.value = '';
  };
  if (listing.error.value?.status === 403) return html`<p class="fine">${t('This key may not see the others; one with the right to administer may.')}</p>`;
  return html`${!facts.read_only && html`<form class="row" onSubmit=${make}><input class="grow" type="text" aria-label=${t('name')} placeholder=${t('whom it is for')} value=${name} onInput=${(/** @type {any} */ event) => (name.value = event.target.value)} /><button type="submit">${t('create')}</button></form>`}
    <ul class="items">${listing.items.value?.map((one) => html`<li class="item file"><strong class="grow">${one.name}</strong><span class="fine">${LIMITS.filter(([field]) => one[field ?? '']).map(([field, words]) => `${number(one[field ?? ''])} ${t(words ?? '')}`).join(' · ')}</span><${Id} id=${one.id} />${!facts.read_only && html`<button type="button" class="quiet" onClick=${() => (revokes.value = one)}>${t('revoke')}</button>`}</li>`)}</ul>
    <${ListingFoot} listing=${listing} />
    ${revokes.value && html`<${Ask} title=${t('revoke this key?')} verb=${t('revoke')} onYes=${() => listing.act('DELETE', `v1/keys/${revokes.value.id}`)} onClose=${() => (revokes.value = null)}><p>${revokes.value.name}</p></${Ask}>`}
    ${secret.value && html`<${Dialog} title=${t('The new key')} onClose=${() => (secret.value = '')}><p>${t('It is shown this once.')}</p><div class="code"><pre tabindex="0" aria-label=${t('The new key')}>${secret.value}</pre><${Copy} class="over" text=${secret.value} /></div><div class="row end"><button type="button" class="primary" onClick=${() => (secret.value = '')}>${t('I have kept it')}</button></div></${Dialog}>`}`;
}

export function Keys() {
  const offered = facts.keys && offers.value.has('GET', '/v1/keys');
  return html`<section class="card" id="keys"><h2>${t('Keys')}</h2><${Own} />
    ${offered ? html`<${All} />` : html`<p class="fine">${t('Keys are made, listed and revoked where the service runs:')} <code>sightline keys create NAME</code>, <code>sightline keys list</code>, <code>sightline keys revoke ID</code></p>`}</section>`;
}
