/** What was tried before in this tab, newest first. */
import { session } from '../kept.js';
import { duration } from '../format.js';
import { html, signal } from '../lib.js';
import { Ago, State } from '../parts.js';
import { link } from '../route.js';
import { t } from '../words.js';

/** @typedef {{id: string, state: string, line: string, ms: number, at: number, thumb: string, body: any, kind: string}} Past */

const KEPT = 12;
const THUMB_PX = 64;

export const earlier = signal(/** @type {Past[]} */ (session.get('earlier') ?? []));

/** @param {import('./run.js').Run} run */
export async function remember(run) {
  const line = run.flow.text || run.error.value?.message || '';
  const past = {
    id: run.id.value,
    state: run.state.value,
    line: line.slice(0, 200),
    ms: run.ended.value - run.began,
    at: Math.round(run.began / 1000),
    thumb: await thumbOf(run.items[0]),
    body: run.body,
    kind: run.items[0]?.kind ?? 'image',
  };
  earlier.value = [past, ...earlier.value.filter((other) => other.id !== past.id)].slice(0, KEPT);
  session.set('earlier', earlier.value);
}

/** @param {string} id */
export function recall(id) {
  return earlier.value.find((past) => past.id === id) ?? null;
}

/** @param {import('./media.js').Item | undefined} item @returns {Promise<string>} a small picture, as a data-URL */
async function thumbOf(item) {
  if (!item?.file || item.kind !== 'image') return '';
  try {
    const bitmap = await createImageBitmap(item.file);
    const scale = THUMB_PX / Math.max(bitmap.width, bitmap.height);
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext('2d')?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL('image/jpeg', 0.8);
  } catch {
    return ''; // a picture that the gateway takes and this browser does not
  }
}

/** @param {{thumb: string, kind?: string}} props */
export function SmallPicture({ thumb, kind = 'image' }) {
  return thumb ? html`<img class="small" src=${thumb} alt="" />` : html`<span class="small" aria-hidden="true">${kind === 'video' ? '▶' : ''}</span>`;
}

export function Earlier() {
  if (!earlier.value.length) return null;
  return html`<section class="earlier"><h2>${t('Earlier')}</h2><ul>${earlier.value.map(
    (past) => html`<li><a href=${link('jobs', past.id)}><${SmallPicture} thumb=${past.thumb} kind=${past.kind} /><span class="line">${past.line}</span><${State} state=${past.state} text=${duration(past.ms)} /><span class="fine"><${Ago} at=${past.at} /></span></a></li>`,
  )}</ul></section>`;
}

