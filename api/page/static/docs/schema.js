/** Schemas of the API's description, as words, as trees of fields and as examples. */
import { html, useSignal } from '../lib.js';
import { t } from '../words.js';
import { Text } from './text.js';

/** @typedef {Record<string, any>} Schema */
/** @typedef {{components: {schemas: Record<string, Schema>}, [name: string]: any}} Description */

/** @param {Schema} schema @param {Description} doc @returns {Schema} what a reference leads to */
export function found(schema, doc) {
  const name = nameOf(schema);
  return name ? (doc.components.schemas[name] ?? {}) : schema;
}

/** @param {Schema} schema @returns {string} of the schema that it refers to; nothing where it refers to none */
function nameOf(schema) {
  return String(schema.$ref ?? '').replace('#/components/schemas/', '');
}

/** @param {Schema} schema @returns {Schema[]} what it may be */
function choicesOf(schema) {
  return schema.anyOf ?? schema.oneOf ?? [schema];
}

/** @param {Schema} schema @param {Description} doc @returns {string} its type in a few words */
export function typeOf(schema, doc) {
  if (schema.anyOf || schema.oneOf) return [...new Set(choicesOf(schema).map((one) => typeOf(one, doc)))].join(' | ');
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((/** @type {any} */ one) => JSON.stringify(one)).join(' | ');
  if (schema.$ref) {
    const target = found(schema, doc);
    return target.enum ? typeOf(target, doc) : nameOf(schema);
  }
  if (schema.type === 'array') return schema.items ? `[${typeOf(schema.items, doc)}]` : '[…]';
  return schema.format === 'binary' ? t('file') : (schema.type ?? t('any JSON'));
}

/** @type {[string, string][]} */
const LIMITS = [
  ['minimum', '≥'],
  ['exclusiveMinimum', '>'],
  ['maximum', '≤'],
  ['exclusiveMaximum', '<'],
  ['minLength', 'length ≥'],
  ['maxLength', 'length ≤'],
  ['minItems', 'items ≥'],
  ['maxItems', 'items ≤'],
  ['pattern', 'pattern'],
];

/** @param {Schema} schema @returns {string} what bounds its values, and what goes without saying */
export function limitsOf(schema) {
  const told = choicesOf(schema).flatMap((one) => LIMITS.filter(([name]) => name in one).map(([name, sign]) => `${sign} ${one[name]}`));
  const usual = JSON.stringify(schema.default ?? null);
  return [...told, ...(['null', '[]', '{}', '""'].includes(usual) ? [] : [`= ${usual}`])].join(', ');
}

/** @param {Schema} schema @param {Description} doc @returns {Schema[]} the objects in it that have fields of their own */
function objectsIn(schema, doc) {
  const inner = choicesOf(schema).flatMap((one) => (one.type === 'array' && one.items ? choicesOf(one.items) : [one]));
  return inner.map((one) => /** @type {Schema} */ ({ ...found(one, doc), title: nameOf(one) })).filter((one) => one.properties);
}

/** The fields of an object; those of the objects in it unfold. @param {{schema: Schema, doc: Description}} props */
export function Fields({ schema, doc }) {
  const required = new Set(schema.required ?? []);
  return html`<ul class="fields">${Object.entries(schema.properties ?? {}).map(
    ([name, field]) => html`<li key=${name}>
      <p><code>${name}</code> <span class="fine mono">${typeOf(field, doc)}</span>
        ${required.has(name) && html`<span class="fine"> · ${t('required')}</span>`}
        ${limitsOf(field) && html`<span class="fine mono"> · ${limitsOf(field)}</span>`}</p>
      ${field.description && html`<${Text} text=${field.description} />`}
      ${objectsIn(field, doc).map((one) => html`<${Fold} key=${one.title} schema=${one} doc=${doc} />`)}
    </li>`,
  )}</ul>`;
}

/** An object that a field holds; made when it is unfolded, since some hold themselves. @param {{schema: Schema, doc: Description}} props */
function Fold({ schema, doc }) {
  const open = useSignal(false);
  const onToggle = (/** @type {any} */ event) => (open.value = event.target.open);
  return html`<details class="fold" onToggle=${onToggle}><summary><code>${schema.title || t('fields')}</code></summary>
    ${open.value && html`<${Text} text=${schema.description ?? ''} /><${Fields} schema=${schema} doc=${doc} />`}
  </details>`;
}

/** @param {Schema} schema @param {Description} doc @param {number} [depth] @returns {any} a value of it: its own example, else one that is made */
export function exampleOf(schema, doc, depth = 0) {
  if (schema.examples?.length) return schema.examples[0];
  if (schema.$ref) return exampleOf(found(schema, doc), doc, depth);
  if ('const' in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  if (schema.anyOf || schema.oneOf) return exampleOf(choicesOf(schema)[0] ?? {}, doc, depth);
  if (schema.type === 'array') return schema.items && depth < 4 ? [exampleOf(schema.items, doc, depth + 1)] : [];
  if (schema.properties && depth < 4) return Object.fromEntries((schema.required ?? []).map((/** @type {string} */ name) => [name, exampleOf(schema.properties[name], doc, depth + 1)]));
  return schema.default ?? /** @type {Record<string, any>} */ ({ string: '…', integer: 1, number: 1, boolean: true, object: {} })[schema.type] ?? null;
}
