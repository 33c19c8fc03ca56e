/** What this gateway's API has, by its own description: what it does not offer, the page does not show. */
import { ask } from './api.js';
import { signal } from './lib.js';

/** @typedef {{known: boolean, filters: Set<string>, has: (method: string, path: string) => boolean}} Offers */

export const offers = signal(/** @type {Offers} */ ({ known: false, filters: new Set(), has: () => false }));

let asked = false;

/** Read the description, once. */
export async function learn() {
  if (asked) return;
  asked = true;
  try {
    const { paths } = await ask('GET', 'openapi.json');
    const listing = paths['/v1/jobs']?.get?.parameters ?? [];
    offers.value = {
      known: true,
      filters: new Set(listing.map((/** @type {any} */ one) => one.name)),
      has: (method, path) => Boolean(paths[path]?.[method.toLowerCase()]),
    };
  } catch {
    asked = false;
    offers.value = { ...offers.value, known: true };
  }
}
