/** One operation: what it takes, what it answers, and how it is asked with curl. */
import { base } from '../facts.js';
import { html, useSignal } from '../lib.js';
import { Copy } from '../parts.js';
import { t } from '../words.js';
import { Fields, exampleOf, found, limitsOf, typeOf } from './schema.js';
import { Text } from './text.js';

/** @typedef {import('./schema.js').Description} Description */
/** @typedef {import('./schema.js').Schema} Schema */
/** @typedef {{method: string, path: string, id: string, tag: string, told: Record<string, any>}} Operation */

/** @param {Description} doc @returns {Operation[]} all of them, by their tags */
export function operationsOf(doc) {
  const order = doc.tags.map((/** @type {{name: string}} */ tag) => tag.name);
  const all = Object.entries(doc.paths).flatMap(([path, item]) =>
    Object.entries(/** @type {Record<string, any>} */ (item)).map(([method, told]) => ({ method: method.toUpperCase(), path, id: told.operationId, tag: told.tags?.[0] ?? '', told })),
  );
  return all.sort((one, other) => order.indexOf(one.tag) - order.indexOf(other.tag));
}

/** @param {Record<string, any>} content @returns {[string, Schema]} the kind of body that is shown, and what is in it */
function shown(content) {
  const [kind, body] = Object.entries(content)[0] ?? ['', {}];
  return [kind, body.schema ?? {}];
}

/** @param {string} text for a shell */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** @param {Operation} operation @param {Description} doc */
export function curl({ method, path, told }, doc) {
  const parts = [`curl -sS${method === 'GET' ? '' : ` -X ${method}`} ${quoted(base + path.slice(1))}`];
  if (told.security && !told.security.some((/** @type {object} */ one) => !Object.keys(one).length)) parts.push('-H "Authorization: Bearer $SIGHTLINE_API_KEY"');
  const [kind, schema] = shown(told.requestBody?.content ?? {});
  if (kind === 'multipart/form-data') parts.push("-F 'file=@cat.jpg'");
  else if (kind) parts.push(`-H 'Content-Type: ${kind}'`, `-d ${quoted(JSON.stringify(exampleOf(schema, doc), null, 2))}`);
  return parts.join(' \\\n  ');
}

/** @param {string} text @returns {string} what it says first */
const firstLine = (text) => (text.split(/[.;:]\s/)[0] ?? '').replaceAll('`', '').replace(/\.$/, '');

/** @param {{operation: Operation, doc: Description, open: boolean}} props */
export function OperationView({ operation, doc, open }) {
  const shownNow = useSignal(open);
  const { method, path, id, told } = operation;
  const onToggle = (/** @type {any} */ event) => (shownNow.value = event.target.open);
  return html`<details class="operation card" id=${id} open=${open} onToggle=${onToggle}>
    <summary><span class="method ${method.toLowerCase()}">${method}</span> <code>${path}</code>${!shownNow.value && html` <span class="fine first">${firstLine(told.description)}</span>`}</summary>
    <${Text} text=${told.description} />
    ${(shownNow.value || open) && html`<${Inside} operation=${operation} doc=${doc} />`}
  </details>`;
}

/** @param {{operation: Operation, doc: Description}} props */
function Inside({ operation, doc }) {
  const { told } = operation;
  return html`
    ${told.parameters?.length && html`<h3>${t('Parameters')}</h3><${Parameters} list=${told.parameters} doc=${doc} />`}
    ${told.requestBody && html`<h3>${t('Request body')}</h3><${Body} content=${told.requestBody.content} doc=${doc} />`}
    <h3>curl</h3><${Code} text=${curl(operation, doc)} />
    <h3>${t('Answers')}</h3>
    ${Object.entries(told.responses).map(([status, answer]) => html`<${Answer} key=${status} status=${status} answer=${answer} doc=${doc} />`)}`;
}

/** @param {{list: any[], doc: Description}} props */
function Parameters({ list, doc }) {
  return html`<ul class="fields">${list.map(
    (one) => html`<li key=${one.name}>
      <p><code>${one.name}</code> <span class="fine mono">${typeOf(one.schema, doc)}</span>
        <span class="fine"> · ${t(`in: ${one.in}`)}${one.required ? ` · ${t('required')}` : ''}</span>
        ${limitsOf(one.schema) && html`<span class="fine mono"> · ${limitsOf(one.schema)}</span>`}</p>
      ${one.description && html`<${Text} text=${one.description} />`}
    </li>`,
  )}</ul>`;
}

/** @param {{content: Record<string, any>, doc: Description}} props */
function Body({ content, doc }) {
  const [kind, schema] = shown(content);
  const target = found(schema, doc);
  const isJson = kind.endsWith('json') && kind !== 'application/jsonl';
  return html`<p class="fine mono">${Object.keys(content).join(', ')}</p>
    ${target.description && html`<${Text} text=${target.description} />`}
    ${target.properties && html`<${Fields} schema=${target} doc=${doc} />`}
    ${isJson && html`<${Code} text=${JSON.stringify(exampleOf(schema, doc), null, 2)} />`}`;
}

/** @param {{status: string, answer: any, doc: Description}} props */
function Answer({ status, answer, doc }) {
  const open = useSignal(false);
  const onToggle = (/** @type {any} */ event) => (open.value = event.target.open);
  const words = html`<b class="mono">${status === 'default' ? t('error') : status}</b> <span class="fine">${answer.description}</span>`;
  if (!answer.content) return html`<p>${words}</p>`;
  return html`<details class="fold" onToggle=${onToggle}><summary>${words}</summary>${open.value && html`<${Body} content=${answer.content} doc=${doc} />`}</details>`;
}

/** @param {{text: string}} props */
function Code({ text }) {
  return html`<div class="code"><pre tabindex="0">${text}</pre><${Copy} text=${text} class="over" /></div>`;
}
