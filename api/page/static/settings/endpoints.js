/** Webhook endpoints: make one, whose secret is shown once; try, rotate, recover, put in use again, delete. */
import { ask } from '../api.js';
import { facts } from '../facts.js';
import { html, useEffect, useSignal } from '../lib.js';
import { Ask, Dialog, Failed, Id, State } from '../parts.js';
import { t } from '../words.js';
import { ListingFoot, useListing } from './listing.js';
import { Secret } from './secret.js';

const USUAL = ['job.succeeded', 'job.failed', 'job.cancelled'];
const DAY_S = 24 * 3600;

/** @param {{onMade: (endpoint: any) => void, onClose: () => void}} props */
function Maker({ onMade, onClose }) {
  const given = useSignal({ url: '', name: '', events: USUAL, payload: 'full' });
  const types = useSignal(/** @type {string[]} */ (USUAL));
  const error = useSignal(/** @type {any} */ (null));
  useEffect(() => {
    ask('GET', 'v1/webhook_event_types').then((list) => (types.value = list.data), () => {});
  }, []);
  const set = (/** @type {Partial<typeof given.value>} */ change) => (given.value = { ...given.value, ...change });
  const toggle = (/** @type {string} */ type) => set({ events: given.value.events.includes(type) ? given.value.events.filter((one) => one !== type) : [...given.value.events, type] });
  const onSubmit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const { url, name, events, payload } = given.value;
    try {
      onMade(await ask('POST', 'v1/webhook_endpoints', { url, event_types: events, payload, ...(name ? { name } : {}) }));
    } catch (cause) {
      error.value = cause;
    }
  };
  return html`<${Dialog} title=${t('New endpoint')} onClose=${onClose}><form onSubmit=${onSubmit}>
    <label class="field">${t('address')}<input type="text" inputmode="url" placeholder="https://…" value=${given.value.url} onInput=${(/** @type {any} */ event) => set({ url: event.target.value })} /></label>
    <label class="field">${t('name')}<input type="text" value=${given.value.name} onInput=${(/** @type {any} */ event) => set({ name: event.target.value })} /></label>
    <fieldset><legend>${t('events')}</legend>${types.value.map((type) => html`<label class="check"><input type="checkbox" checked=${given.value.events.includes(type)} onChange=${() => toggle(type)} /> <code>${type}</code></label>`)}</fieldset>
    <label class="check"><input type="checkbox" checked=${given.value.payload === 'thin'} onChange=${() => set({ payload: given.value.payload === 'thin' ? 'full' : 'thin' })} /> ${t('without the text (thin)')}</label>
    ${error.value && html`<${Failed} error=${error.value} />`}
    <div class="row end"><button type="button" onClick=${onClose}>${t('close')}</button><button type="submit" class="primary">${t('create')}</button></div>
  </form></${Dialog}>`;
}

/** @param {{one: any, listing: import('./listing.js').Listing, onSecret: (secret: string) => void}} props */
function Endpoint({ one, listing, onSecret }) {
  const told = useSignal(/** @type {any} */ (null));
  const asks = useSignal(false);
  const path = `v1/webhook_endpoints/${one.id}`;
  const test = async () => {
    told.value = null;
    try {
      told.value = { ok: t('the receiver answered {code}', { code: (await ask('POST', `${path}/test`, { event_type: one.event_types[0] })).status_code }) };
    } catch (cause) {
      told.value = { error: cause };
    }
  };
  const rotate = async () => {
    const answer = await listing.act('POST', `${path}/rotate_secret`, { keep_old_secret_active_for_24_hours: true });
    if (answer) onSecret(answer.signing_secret);
  };
  const recover = async () => {
    const answer = await listing.act('POST', `${path}/recover`, { since: Math.floor(Date.now() / 1000) - DAY_S });
    if (answer) told.value = { ok: t('{n} deliveries are on their way', { n: answer.deliveries }) };
  };
  const off = one.status === 'disabled';
  return html`<li class="item"><div class="row between wrap"><span class="row wrap"><${State} state=${off ? 'failed' : 'succeeded'} text=${t(off ? 'out of use' : 'in use')} /><strong>${one.name}</strong><span class="line">${one.url}</span></span><${Id} id=${one.id} /></div>
    <p class="fine">${one.event_types.join(', ')}${one.payload === 'thin' ? ' · thin' : ''} · ${one.signing_secret_hint}</p>
    ${one.disabled_reason && html`<p class="wrong">${one.disabled_reason}</p>`}
    ${!facts.read_only && html`<div class="row wrap">
      <button type="button" class="quiet" onClick=${test}>${t('test')}</button>
      <button type="button" class="quiet" onClick=${rotate}>${t('new secret')}</button>
      <button type="button" class="quiet" onClick=${recover}>${t('send again what was missed in a day')}</button>
      ${off && html`<button type="button" class="quiet" onClick=${() => listing.act('POST', path, { enabled: true })}>${t('put in use')}</button>`}
      <button type="button" class="quiet" onClick=${() => (asks.value = true)}>${t('delete')}</button></div>`}
    ${told.value?.ok && html`<p class="state succeeded" role="status">● ${told.value.ok}</p>`}
    ${told.value?.error && html`<${Failed} error=${told.value.error} />`}
    ${asks.value && html`<${Ask} title=${t('delete this endpoint?')} verb=${t('delete')} onYes=${() => listing.act('DELETE', path)} onClose=${() => (asks.value = false)}><p>${one.url}</p><p>${t('What was due to it is given up.')}</p></${Ask}>`}
  </li>`;
}

export function Endpoints() {
  const listing = useListing('v1/webhook_endpoints');
  const makes = useSignal(false);
  const secret = useSignal('');
  const onMade = (/** @type {any} */ endpoint) => {
    makes.value = false;
    secret.value = endpoint.signing_secret;
    listing.read();
  };
  return html`<section class="card" id="endpoints"><div class="row between"><h2>${t('Webhook endpoints')}</h2>${!facts.read_only && html`<button type="button" onClick=${() => (makes.value = true)}>${t('new')}</button>`}</div>
    ${listing.items.value?.length === 0 && html`<p class="fine">${t('An endpoint hears of every job. There is none yet.')}</p>`}
    <ul class="items">${listing.items.value?.map((one) => html`<${Endpoint} key=${one.id} one=${one} listing=${listing} onSecret=${(/** @type {string} */ value) => (secret.value = value)} />`)}</ul>
    <${ListingFoot} listing=${listing} />
    ${makes.value && html`<${Maker} onMade=${onMade} onClose=${() => (makes.value = false)} />`}
    ${secret.value && html`<${Secret} title=${t('The signing secret')} about=${t('It is shown this once. A receiver checks signatures with it.')} secret=${secret.value} onClose=${() => (secret.value = '')} />`}
  </section>`;
}
