/** A list of the API that is read page by page, and again after a change. */
import { ask } from '../api.js';
import { html, signal, useEffect, useMemo } from '../lib.js';
import { Failed } from '../parts.js';
import { t } from '../words.js';

const PAGE = 50;

export class Listing {
  /** @param {string} path */
  constructor(path) {
    this.path = path;
    this.items = signal(/** @type {any[] | null} */ (null));
    this.more = signal(false);
    this.error = signal(/** @type {any} */ (null));
  }

  /** @param {string} [after] */
  async read(after = '') {
    try {
      const page = await ask('GET', `${this.path}?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ''}`);
      this.items.value = after ? [...(this.items.value ?? []), ...page.data] : page.data;
      this.more.value = page.has_more;
      this.error.value = null;
    } catch (error) {
      this.error.value = error;
    }
  }

  /** Do something, then read the list again; gives what was answered. @param {string} method @param {string} path @param {unknown} [body] */
  async act(method, path, body) {
    try {
      const answer = await ask(method, path, body);
      await this.read();
      return answer;
    } catch (error) {
      this.error.value = error;
      return null;
    }
  }
}

/** @param {string} path @param {number} [everyMs] read again so often */
export function useListing(path, everyMs = 0) {
  const listing = useMemo(() => new Listing(path), [path]);
  useEffect(() => {
    listing.read();
    const timer = everyMs ? setInterval(() => !document.hidden && (listing.items.value?.length ?? 0) <= PAGE && listing.read(), everyMs) : 0;
    return () => clearInterval(timer);
  }, [listing]);
  return listing;
}

/** @param {{listing: Listing}} props */
export function ListingFoot({ listing }) {
  const last = listing.items.value?.at(-1)?.id ?? '';
  return html`${listing.error.value && html`<${Failed} error=${listing.error.value} again=${() => listing.read()} />`}
    ${listing.more.value && html`<button type="button" onClick=${() => listing.read(last)}>${t('more')}</button>`}`;
}
