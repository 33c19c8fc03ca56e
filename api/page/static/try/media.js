/** The pictures and videos that the reader has put in: what each is, whether it will be taken, and what it looks like. */
import { upload } from '../api.js';
import { facts } from '../facts.js';
import { size } from '../format.js';
import { signal } from '../lib.js';
import { t } from '../words.js';

/** @typedef {'image' | 'video'} Kind */
/**
 * @typedef {object} Item
 * @property {string} name a file's path in its folder, or an address
 * @property {Kind} kind
 * @property {Blob | null} file null: it is an address
 * @property {string} shown what an element shows: a blob's address, or nothing
 * @property {string} ref what a request names it by; empty before the upload
 */

export const items = signal(/** @type {Item[]} */ ([]));
/** Files that were not taken, and why. */
export const refused = signal(/** @type {{name: string, why: string}[]} */ ([]));

/** The first bytes of what the gateway takes; it looks at nothing else either. @type {[string, string][]} */
const STARTS = [
  ['ffd8ff', 'image'],
  ['89504e470d0a1a0a', 'image'],
  ['474946383761', 'image'],
  ['474946383961', 'image'],
  ['1a45dfa3', 'video'],
];
const OTHER_STILLS = new Set(['heic', 'heix', 'heim', 'heis', 'hevc', 'hevx', 'mif1', 'msf1', 'jxl ', 'crx ']);

/**
 * Say what a file is by its first bytes; names and declared types are not believed.
 * @param {Uint8Array} head
 * @returns {Kind | null} null: it is not taken
 */
export function sniff(head) {
  const hex = [...head.slice(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const found = STARTS.find(([start]) => hex.startsWith(start));
  if (found) return /** @type {Kind} */ (found[1]);
  const text = String.fromCharCode(...head.slice(0, 16));
  if (text.startsWith('RIFF') && text.slice(8, 12) === 'WEBP') return 'image';
  if (text.slice(4, 8) !== 'ftyp') return null;
  const brand = text.slice(8, 12);
  if (brand === 'avif' || brand === 'avis') return 'image';
  return OTHER_STILLS.has(brand) ? null : 'video';
}

/** Say why a file is not taken, before anything is sent. @param {Blob} file @returns {Promise<{kind: Kind} | {why: string}>} */
async function judge(file) {
  if (!file.size) return { why: t('it is empty') };
  if (file.size > facts.max_upload_bytes) {
    return { why: t('it has {size}; at most {most} are taken', { size: size(file.size), most: size(facts.max_upload_bytes) }) };
  }
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  } catch {
    return { why: t('it cannot be read') };
  }
  const kind = sniff(head);
  return kind ? { kind } : { why: t('it is neither JPEG, PNG, WEBP, GIF or AVIF, nor MP4, MOV, MKV or WEBM') };
}

/** Take files in. @param {{file: Blob, name: string}[]} given */
export async function add(given) {
  const judged = await Promise.all(given.map(async (one) => ({ ...one, told: await judge(one.file) })));
  /** @type {Item[]} */
  const taken = [];
  /** @type {{name: string, why: string}[]} */
  const not = [];
  for (const { file, name, told } of judged) {
    if ('why' in told) not.push({ name, why: told.why });
    else taken.push({ name, kind: told.kind, file, shown: URL.createObjectURL(file), ref: '' });
  }
  items.value = [...items.value, ...taken];
  refused.value = not;
}

/** Take an address in: of http, https or data. @param {string} address */
export function addAddress(address) {
  const kind = /^data:video\/|\.(mp4|mov|m4v|mkv|webm)([?#]|$)/i.test(address) ? 'video' : 'image';
  items.value = [...items.value, { name: address, kind, file: null, shown: address.startsWith('data:image/') ? address : '', ref: address }];
}

/** @param {Item} item */
export function remove(item) {
  items.value = items.value.filter((other) => other !== item);
}

export function clear() {
  items.value = [];
  refused.value = [];
}

/** Upload an item, if it is a file and is not there yet. @param {Item} item @param {{signal: AbortSignal, onProgress?: (share: number) => void}} options */
export async function send(item, options) {
  if (!item.ref && item.file) item.ref = (await upload(item.file, item.name.split('/').pop() || 'file', options)).id;
  return item.ref;
}

/** Give the files that were dropped or pasted, those in folders too. @param {DataTransfer} data @returns {Promise<{file: Blob, name: string}[]>} */
export async function filesOf(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.some((entry) => entry.isDirectory)) return [...data.files].map((file) => ({ file, name: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

/** @param {FileSystemEntry} entry @returns {Promise<{file: Blob, name: string}[]>} */
async function walk(entry) {
  if (entry.name.startsWith('.')) return [];
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
    return [{ file, name: entry.fullPath.replace(/^\//, '') }];
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  const found = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
    if (!some.length) return found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    for (const child of some) found.push(...(await walk(child)));
  }
}
