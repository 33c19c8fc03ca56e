/** Where a job's events went: each delivery with its attempts, and once more on request. */
import { ask } from '../api.js';
import { facts } from '../facts.js';
import { duration } from '../format.js';
import { html, useEffect, useSignal } from '../lib.js';
import { Ago, Failed, State } from '../parts.js';
import { t } from '../words.js';

const STATES = { delivered: 'succeeded', pending: 'queued', given_up: 'failed', discarded: 'failed' };
const LOOK_EVERY_MS = 1500;

/** @param {{one: any}} props */
export function Delivery({ one }) {
  const attempts = one.attempts ?? [];
  return html`<details class="delivery"><summary>
      <${State} state=${STATES[/** @type {keyof typeof STATES} */ (one.status)] ?? 'queued'} text=${t(one.status)} />
      <span class="line grow">${one.event_type} → ${one.url ?? one.webhook_endpoint_id ?? one.target}</span>
      <span class="fine">${t('{n} attempts', { n: attempts.length })}</span></summary>
    <ol class="attempts">${attempts.map(
      (/** @type {any} */ attempt) => html`<li><span class="number">${attempt.attempt}</span> <strong>${attempt.code ?? attempt.error ?? '–'}</strong> <span class="fine">${attempt.ms !== undefined && duration(attempt.ms)} ${attempt.at && html`<${Ago} at=${attempt.at} />`}</span>
        ${attempt.answer && html`<pre tabindex="0" aria-label=${t('answer')}>${attempt.answer}</pre>`}</li>`,
    )}</ol>
    ${one.reason && html`<p class="wrong">${one.reason}</p>`}
    ${one.next_attempt_at && html`<p class="fine">${t('next attempt')} <${Ago} at=${one.next_attempt_at} /></p>`}
  </details>`;
}

/** @param {{id: string, over: boolean}} props */
export function Deliveries({ id, over }) {
  const list = useSignal(/** @type {any[]} */ ([]));
  const error = useSignal(/** @type {any} */ (null));
  useEffect(() => {
    let left = false;
    /** @type {any} */
    let timer;
    const look = async () => {
      try {
        list.value = (await ask('GET', `v1/jobs/${id}/deliveries`)).data;
        error.value = null;
      } catch (cause) {
        error.value = cause;
      }
      if (!left && (!over || list.value.some((one) => one.status === 'pending'))) timer = setTimeout(look, LOOK_EVERY_MS);
    };
    look();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [id, over]);
  const again = async () => {
    try {
      list.value = (await ask('POST', `v1/jobs/${id}/deliveries/redeliver`)).data;
      setTimeout(async () => (list.value = (await ask('GET', `v1/jobs/${id}/deliveries`)).data), LOOK_EVERY_MS);
    } catch (cause) {
      error.value = cause;
    }
  };
  if (!list.value.length && !error.value) return null;
  return html`<section class="card"><div class="row between"><h2>${t('webhook deliveries')}</h2>${!facts.read_only && list.value.length > 0 && html`<button type="button" onClick=${again}>${t('redeliver')}</button>`}</div>
    ${error.value && html`<${Failed} error=${error.value} />`}
    ${list.value.map((one) => html`<${Delivery} key=${one.id} one=${one} />`)}</section>`;
}
