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
 * @property {Kind} kind by its name, until the gateway has looked into it
 * @property {Blob | null} file null: it is an address
 * @property {string} shown what an element shows: a blob's address, or nothing
 * @property {string} ref what a request names it by; empty before the upload
 * @property {boolean} [asked] it has been described: the next one takes its place
 */

export const items = signal(/** @type {Item[]} */ ([]));
/** Files that were not taken, and why. */
export const refused = signal(/** @type {{name: string, why: string}[]} */ ([]));

/** Files that are often dropped by mistake, by their first bytes. What is taken is the gateway's to say. @type {[start: string, what: string][]} */
const STRANGERS = [
  ['%PDF', 'a PDF'],
  ['PK\x03\x04', 'an archive or a document'],
  ['\x1f\x8b', 'an archive or a document'],
  ['Rar!', 'an archive or a document'],
  ['ID3', 'sound'],
  ['fLaC', 'sound'],
];
const HEAD_BYTES = 1024;

/**
 * Say what a file is that is certainly neither a picture of pixels nor a video: text (SVG and HTML are), documents, sound.
 * @param {Uint8Array} head its first bytes
 * @returns {string} empty: it may be one
 */
export function stranger(head) {
  const start = String.fromCharCode(...head.slice(0, 16));
  const known = STRANGERS.find(([magic]) => start.startsWith(magic))?.[1];
  if (known) return known;
  if (start.startsWith('RIFF') && start.slice(8, 12) === 'WAVE') return 'sound';
  if (head.some((byte) => byte < 0x20 && ![0x09, 0x0a, 0x0c, 0x0d].includes(byte))) return '';
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(head, { stream: true }); // the last letter may be cut
    return 'text';
  } catch {
    return '';
  }
}

/** Say why a file is not taken, before anything is sent. @param {Blob} file @returns {Promise<string>} empty: it is */
async function obstacle(file) {
  if (!file.size) return t('it is empty');
  if (file.size > facts.max_upload_bytes) return t('it has {size}; at most {most} are taken', { size: size(file.size), most: size(facts.max_upload_bytes) });
  try {
    const what = stranger(new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer()));
    return what && t('it is {what}, and neither a picture nor a video', { what: t(what) });
  } catch {
    return t('it cannot be read');
  }
}

const VIDEO_NAMES = /\.(mp4|mov|m4v|mkv|webm|avi|flv|mpe?g|mts|m2ts|ts|wmv|asf|ogv|3gp)([?#]|$)/i;

/** @param {Item[]} more */
function take(more) {
  if (more.length) items.value = [...items.value.filter((item) => !item.asked), ...more];
}

/** Take files in. @param {{file: Blob, name: string}[]} given */
export async function add(given) {
  const judged = await Promise.all(given.map(async (one) => ({ ...one, why: await obstacle(one.file) })));
  const taken = judged.filter(({ why }) => !why).map(({ file, name }) => {
    const kind = file.type.startsWith('video/') || VIDEO_NAMES.test(name) ? 'video' : 'image';
    return { name, kind: /** @type {Kind} */ (kind), file, shown: URL.createObjectURL(file), ref: '' };
  });
  take(taken);
  refused.value = judged.filter(({ why }) => why).map(({ name, why }) => ({ name, why }));
}

/** Take an address in: of http, https or data. @param {string} address */
export function addAddress(address) {
  const kind = address.startsWith('data:video/') || VIDEO_NAMES.test(address) ? 'video' : 'image';
  take([{ name: address, kind, file: null, shown: address.startsWith('data:image/') ? address : '', ref: address }]);
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
  if (item.ref || !item.file) return item.ref;
  const file = await upload(item.file, item.name.split('/').pop() || 'file', options);
  item.kind = file.media_type.startsWith('video/') ? 'video' : 'image'; // what it is, its content says, not its name
  item.ref = file.id;
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
