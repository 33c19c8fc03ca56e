/** The public API, which is all that the page knows of the service. */
import { base, facts } from './facts.js';
import { session } from './kept.js';
import { signal } from './lib.js';
import { EventParser } from './sse.js';
import { t } from './words.js';

/** The reader's API key. It stands in a header, never in an address, and is forgotten with the tab. */
export const key = signal(/** @type {string | null} */ (session.get('key')));

/** Whether a key is missing, or was refused: the reader is asked for one. */
export const keyWanted = signal(facts.keys && !key.value);

/** How often the reader has signed in: what was read with another key is read again. */
export const signIns = signal(0);

/** @param {string | null} value */
export function useKey(value) {
  session.set('key', value);
  key.value = value;
  keyWanted.value = facts.keys && !value;
}

/** An error as the API tells it, or that it could not be asked. */
export class ApiError extends Error {
  /** @param {{message: string, code: string, status?: number, param?: string | null, requestId?: string | null, retryAfterS?: number | null, job?: any}} told */
  constructor(told) {
    super(told.message);
    this.code = told.code;
    this.status = told.status ?? 0;
    this.param = told.param ?? null;
    this.requestId = told.requestId ?? null;
    this.retryAfterS = told.retryAfterS ?? null;
    this.job = told.job ?? null;
  }
}

/**
 * @param {string} text a body
 * @param {number} status
 * @param {(name: string) => string | null} header
 */
function errorOf(text, status, header) {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = {};
  }
  const told = body.error ?? { message: `HTTP ${status}`, code: 'foreign_answer' };
  const retryAfter = Number(header('retry-after'));
  return new ApiError({
    message: String(told.message),
    code: String(told.code),
    param: told.param,
    status,
    requestId: header('x-request-id'),
    retryAfterS: retryAfter || null,
    job: body.job,
  });
}

/** @param {unknown} [cause] @returns {ApiError} */
export function unreachable(cause) {
  if (cause instanceof DOMException && cause.name === 'AbortError') throw cause;
  return new ApiError({ message: t('The gateway does not answer.'), code: 'unreachable' });
}

/** A request was refused that showed this key; it tells nothing of another that has taken its place since. @param {string | null} used */
function refused(used) {
  if (used === key.value) keyWanted.value = true;
}

/** @param {Record<string, string>} [more] */
function headers(more = {}) {
  return key.value ? { ...more, authorization: `Bearer ${key.value}` } : more;
}

/**
 * @param {string} path
 * @param {RequestInit & {headers?: Record<string, string>}} [options]
 */
async function answerOf(path, options = {}) {
  const used = key.value;
  let answer;
  try {
    answer = await fetch(base + path.replace(/^\//, ''), { ...options, headers: headers(options.headers), cache: 'no-store' });
  } catch (cause) {
    throw unreachable(cause);
  }
  if (answer.ok) return answer;
  const error = errorOf(await answer.text().catch(() => ''), answer.status, (name) => answer.headers.get(name));
  if (error.status === 401) refused(used);
  throw error;
}

/**
 * Make a request.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body] sent as JSON
 * @param {{signal?: AbortSignal, idempotencyKey?: string, watch?: boolean}} [options]
 * @returns {Promise<any>} the answer's JSON
 * @throws {ApiError}
 */
export async function ask(method, path, body, { signal: aborted, idempotencyKey, watch } = {}) {
  /** @type {Record<string, string>} */
  const given = body === undefined ? {} : { 'content-type': 'application/json' };
  if (idempotencyKey) given['idempotency-key'] = idempotencyKey;
  if (watch) given.prefer = 'watch'; // the text from its first word on: the stream is opened a moment after
  const answer = await answerOf(path, { method, body: body === undefined ? undefined : JSON.stringify(body), headers: given, signal: aborted });
  try {
    return await answer.json();
  } catch (cause) {
    throw unreachable(cause);
  }
}

/**
 * Read a file's bytes; an address in an element could carry no key.
 * @param {string} path
 * @param {AbortSignal} [aborted]
 */
export async function bytes(path, aborted) {
  return (await answerOf(path, { signal: aborted })).blob();
}

/**
 * Upload a file, telling how far it is.
 * @param {Blob} file
 * @param {string} name
 * @param {{purpose?: string, signal?: AbortSignal, onProgress?: (share: number) => void}} [options]
 * @returns {Promise<any>}
 */
export function upload(file, name, { purpose = 'vision', signal: aborted, onProgress } = {}) {
  return new Promise((resolve, reject) => {
    const used = key.value;
    const request = new XMLHttpRequest(); // fetch does not tell how much was sent
    request.open('POST', `${base}v1/files`);
    for (const [header, value] of Object.entries(headers())) request.setRequestHeader(header, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress?.(event.loaded / event.total);
    request.onerror = () => reject(unreachable(null));
    request.onabort = () => reject(new DOMException('stopped', 'AbortError'));
    request.onload = () => {
      if (request.status < 300) return resolve(JSON.parse(request.responseText));
      if (request.status === 401) refused(used);
      return reject(errorOf(request.responseText, request.status, (header) => request.getResponseHeader(header)));
    };
    aborted?.addEventListener('abort', () => request.abort());
    const form = new FormData();
    form.append('purpose', purpose);
    form.append('file', file, name);
    request.send(form);
  });
}

/**
 * Read a stream of events to its end.
 * @param {string} path
 * @param {{after?: string, signal: AbortSignal, onOpen?: (status: number) => void}} options
 * @returns {AsyncGenerator<import('./sse.js').Event[]>} events as they arrive together
 * @throws {ApiError}
 */
export async function* events(path, { after, signal: aborted, onOpen }) {
  const answer = await answerOf(path, { headers: after ? { 'last-event-id': after } : {}, signal: aborted });
  onOpen?.(answer.status);
  if (answer.status === 204 || !answer.body) return;
  const parser = new EventParser();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const complete = parser.feed(value);
      if (complete.length) yield complete;
    }
  } catch (cause) {
    throw unreachable(cause);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Make a name for a request, so that its repetition is harmless; `crypto.randomUUID` is there only on https and localhost.
 * @returns {string}
 */
export function newToken() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
