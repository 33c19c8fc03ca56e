/** The page's one stream of events. Browsers allow six connections to a host: whoever opens a stream closes the one before. */
import { ApiError, events } from './api.js';
import { signal } from './lib.js';

/** `off`, `live`, or `reconnecting`. */
export const liveness = signal(/** @type {'off' | 'live' | 'reconnecting'} */ ('off'));

/** @type {AbortController | null} */
let current = null;

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 5000;

/**
 * Follow a stream, over lost connections and gateways that restart, until it ends, is closed, or another one is opened.
 * @param {string} path
 * @param {(events: import('./sse.js').Event[]) => boolean | void} take is given events in order; true: that was the last one
 * @param {AbortSignal} [outer] closes it, too
 * @returns {Promise<void>}
 * @throws {ApiError} there is no such stream, or none for this reader
 */
export async function follow(path, take, outer) {
  current?.abort();
  const own = (current = new AbortController());
  outer?.addEventListener('abort', () => own.abort());
  let after = '';
  let pauseMs = FIRST_PAUSE_MS;
  liveness.value = 'reconnecting';
  try {
    while (!own.signal.aborted) {
      try {
        let status = 0;
        const onOpen = (/** @type {number} */ answered) => {
          status = answered;
          liveness.value = 'live';
        };
        for await (const some of events(path, { after, signal: own.signal, onOpen })) {
          pauseMs = FIRST_PAUSE_MS;
          after = some.findLast((event) => event.id)?.id || after;
          if (take(some.filter((event) => event.id))) return; // those without an id say why a stream ends early
        }
        if (status === 204) return; // nothing comes after what the reader has
      } catch (error) {
        if (own.signal.aborted) return;
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      }
      liveness.value = 'reconnecting';
      await pause(pauseMs * (0.75 + Math.random() / 2), own.signal);
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
  } finally {
    if (current === own) {
      current = null;
      liveness.value = 'off';
    }
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} aborted
 * @returns {Promise<void>}
 */
export function pause(ms, aborted) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    aborted.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
