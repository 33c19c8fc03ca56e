/** The API's documentation: what `/openapi.json` says, for people. */
import { Choices } from '../choices.js';
import { base } from '../facts.js';
import { html, render, signal, useEffect } from '../lib.js';
import '../look.js';
import { Empty, said } from '../parts.js';
import { t } from '../words.js';
import { OperationView, operationsOf } from './operation.js';
import { Text } from './text.js';
import './zh.js';

/** @typedef {import('./schema.js').Description} Description */
/** @typedef {import('./operation.js').Operation} Operation */

const doc = signal(/** @type {Description | null} */ (null));
const wrong = signal('');
/** What the reader looks for, in paths and words. */
const sought = signal('');
/** The operation that the address bar names. */
const named = signal(location.hash.slice(1));
addEventListener('hashchange', () => (named.value = location.hash.slice(1)));

async function load() {
  try {
    const answer = await fetch(`${base}openapi.json`);
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    doc.value = await answer.json();
  } catch (error) {
    wrong.value = String(error);
  }
}

/** @param {Operation} operation */
function fits({ method, path, id, told }) {
  const words = `${method} ${path} ${id} ${told.description ?? ''}`.toLowerCase();
  return sought.value.toLowerCase().split(/\s+/).every((word) => words.includes(word));
}

/** @param {{doc: Description}} props */
function Contents({ doc: told }) {
  const operations = operationsOf(told).filter(fits);
  return html`<nav class="contents" aria-label=${t('operations')}>
    <label class="field">${t('search')}<input type="search" value=${sought} onInput=${(/** @type {any} */ event) => (sought.value = event.target.value)} /></label>
    <ul>${operations.map(
      ({ id, method, path }) => html`<li key=${id}><a href="#${id}" aria-current=${named.value === id ? 'true' : undefined}><span class="method ${method.toLowerCase()}">${method}</span> <code>${path.replace(/^\/v1/, '')}</code></a></li>`,
    )}</ul>
  </nav>`;
}

/** @param {{doc: Description}} props */
function Sections({ doc: told }) {
  const operations = operationsOf(told).filter(fits);
  useEffect(() => document.getElementById(named.value)?.scrollIntoView(), [named.value]);
  if (!operations.length) return html`<${Empty} title=${t('nothing fits')} />`;
  return told.tags.map((/** @type {{name: string, description: string}} */ tag) => {
    const own = operations.filter((one) => one.tag === tag.name);
    return own.length && html`<section key=${tag.name} aria-labelledby="tag-${tag.name}">
      <h2 id="tag-${tag.name}">${tag.name}</h2><${Text} text=${tag.description} />
      ${own.map((one) => html`<${OperationView} key=${one.id} operation=${one} doc=${told} open=${named.value === one.id} />`)}
    </section>`;
  });
}

/** @param {{doc: Description}} props */
function About({ doc: told }) {
  return html`<div class="card about"><${Text} text=${told.info.description} />
    <p class="fine">${t('Base address:')} <code>${base.replace(/\/$/, '')}</code> · <a href="openapi.json">openapi.json</a></p>
    <p class="fine">${t('An API key, where one is asked for, stands in a header:')} <code>Authorization: Bearer sk-…</code></p></div>`;
}

function App() {
  const told = doc.value;
  return html`<header class="bar"><div class="wide"><a class="brand" href="." aria-label="Sightline">Sightline</a>
      <nav aria-label=${t('places')}><a href="docs" aria-current="page">API</a></nav><p class="health">${told ? told.info.version : ''}</p><${Choices} /></div></header>
    <main class="wide docs" tabindex="-1">
      <h1>${t('The API')}</h1>
      ${wrong.value && html`<p class="wrong" role="alert">${t('the gateway does not answer')} · ${wrong.value}</p>`}
      ${!told && !wrong.value && html`<p class="fine">…</p>`}
      ${told && html`<${About} doc=${told} /><div class="columns"><${Contents} doc=${told} /><div class="sections"><${Sections} doc=${told} /></div></div>`}
    </main><p class="sr" role="status" aria-live="polite">${said.value}</p>`;
}

const root = document.getElementById('app');
if (root) {
  root.replaceChildren();
  render(html`<${App} />`, root);
}
load();
