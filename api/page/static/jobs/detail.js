/** One job: its text, its life to scale, where its webhooks went, and the request that made it. */
import { ask, bytes } from '../api.js';
import { facts } from '../facts.js';
import { instant } from '../format.js';
import { html, useEffect, useMemo, useSignal } from '../lib.js';
import { Ago, Ask, Empty, Failed, Id } from '../parts.js';
import { go, link } from '../route.js';
import { Boxes } from '../try/boxes.js';
import { recall } from '../try/earlier.js';
import { Code, Receipt, StateLine, Text } from '../try/result.js';
import { Run } from '../try/run.js';
import { t } from '../words.js';
import { Deliveries } from './deliveries.js';
import { Timeline } from './timeline.js';

/** The picture or clip that a request names, if it is one of ours. @param {{body: any, output: any}} props */
function Media({ body, output }) {
  const shown = useSignal({ address: '', type: '' });
  const parts = (body?.messages ?? []).flatMap((/** @type {any} */ message) => (Array.isArray(message.content) ? message.content : []));
  const [ref] = [body?.images?.[0] ?? body?.video ?? parts.map((/** @type {any} */ part) => part.image ?? part.video).find(Boolean)].flat();
  useEffect(() => {
    const leaving = new AbortController();
    if (String(ref).startsWith('file-')) {
      bytes(`v1/files/${ref}/content`, leaving.signal).then((blob) => (shown.value = { address: URL.createObjectURL(blob), type: blob.type }), () => {});
    }
    return () => {
      leaving.abort();
      URL.revokeObjectURL(shown.value.address);
    };
  }, [ref]);
  const { address, type } = shown.value;
  if (!address) return null;
  return type.startsWith('video/') ? html`<video class="shown" src=${address} controls muted playsinline></video>` : html`<${Boxes} src=${address} name=${t('the picture that was described')} output=${output} />`;
}

/** What was asked, in words. @param {any} body @returns {string} */
function promptOf(body) {
  const said = (body.messages ?? []).flatMap((/** @type {any} */ { content }) => (Array.isArray(content) ? content : [{ text: content }]));
  return body.prompt ?? said.map((/** @type {any} */ part) => part.text).filter(Boolean).join('\n\n');
}

/** What was asked: as it was sent from this tab, else as the service has it. @param {string} id */
function useRequest(id) {
  const asked = useSignal(recall(id)?.body ?? null);
  useEffect(() => {
    if (!asked.value) ask('GET', `v1/jobs/${id}/request`).then((body) => (asked.value = body), () => {}); // the job's own answer says what is wrong
  }, [id]);
  return asked.value;
}

/** @param {{title: string, value: any}} props */
function Json({ title, value }) {
  return html`<details class="fold"><summary>${title}</summary><pre tabindex="0" aria-label=${title}>${JSON.stringify(value, null, 2)}</pre></details>`;
}

/** @param {{run: Run}} props */
function Verbs({ run }) {
  const asks = useSignal('');
  const error = useSignal(/** @type {any} */ (null));
  const { id } = { id: run.id.value };
  if (facts.read_only || !run.isOver) return null;
  const retry = async () => {
    try {
      go(link('jobs', (await ask('POST', `v1/jobs/${id}/retry`)).id));
    } catch (cause) {
      error.value = cause;
    }
  };
  const remove = async () => {
    try {
      await ask('DELETE', `v1/jobs/${id}`);
      go(link('jobs'));
    } catch (cause) {
      error.value = cause;
    }
  };
  return html`<button type="button" onClick=${retry}>${t('run again')}</button>
    <button type="button" class="danger" onClick=${() => (asks.value = 'delete')}>${t('delete')}</button>
    ${error.value && html`<${Failed} error=${error.value} />`}
    ${asks.value && html`<${Ask} title=${t('delete this job and its text?')} verb=${t('delete')} onYes=${remove} onClose=${() => (asks.value = '')} />`}`;
}

/** @param {{id: string}} props */
export function Detail({ id }) {
  const run = useMemo(() => new Run([]), [id]);
  useEffect(() => {
    run.resume(id);
    return () => run.leave();
  }, [run]);
  const job = run.job.value;
  const asked = useRequest(id);
  if (!job && run.error.value) return html`<h1 class="sr">${t('job')}</h1><${Empty} title=${id}><${Failed} error=${run.error.value} again=${() => run.resume(id)} /><p><a href=${link('jobs')}>${t('Jobs')}</a></p></${Empty}>`;
  if (!job) return null;
  const over = run.isOver;
  const endMs = ((job.finished_at ?? run.now.value / 1000) - job.created_at) * 1000;
  return html`<p><a href=${link('jobs')}>← ${t('Jobs')}</a></p>
    <div class="row between wrap title"><h1><${Id} id=${id} /></h1><div class="row wrap"><span class="fine" title=${instant(job.created_at)}>${t('created')} <${Ago} at=${job.created_at} /></span><${Verbs} run=${run} /></div></div>
    <div class="detail">
      <section class="card result" aria-label=${t('answer')}>
        <${StateLine} run=${run} />
        <${Media} body=${asked} output=${job.output} />
        <${Text} run=${run} />
        ${run.error.value && html`<${Failed} error=${run.error.value} />`}
        <${Receipt} job=${job} />
      </section>
      <${Timeline} events=${run.happened.value} endMs=${endMs} over=${over} timings=${job.output?.timings_ms} />
      <${Deliveries} id=${id} over=${over} />
      <section class="card">
        ${asked && html`<h2>${t('request')}</h2><p class="asked">${promptOf(asked)}</p><${Code} body=${asked} model=${job.model ?? ''} />`}
        ${Object.keys(job.metadata ?? {}).length > 0 && html`<${Json} title=${t('metadata')} value=${job.metadata} />`}
        ${job.output && html`<${Json} title=${t('receipt')} value=${{ ...job.output, text: undefined }} />`}
        <${Json} title=${t('events')} value=${run.happened.value.map(({ type, data }) => ({ type, ...data }))} />
        <${Json} title="JSON" value=${job} />
      </section>
    </div>`;
}
