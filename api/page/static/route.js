/** The address bar: `#/jobs/job_1?status=failed` is the place, an id, and the filters. */
import { computed, signal } from './lib.js';

/** @typedef {{place: string, id: string, query: Record<string, string>}} Route */

/** @param {string} hash @returns {Route} */
export function parse(hash) {
  const [path = '', query = ''] = hash.replace(/^#?\/?/, '').split('?', 2);
  const [place = '', ...rest] = path.split('/');
  return { place: place || 'try', id: decode(rest.join('/')), query: Object.fromEntries(new URLSearchParams(query)) };
}

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string} place @param {string} [id] @param {Record<string, string>} [query] */
export function link(place, id = '', query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  const search = new URLSearchParams(given).toString();
  return `#/${place === 'try' ? '' : place}${id ? `/${encodeURIComponent(id)}` : ''}${search ? `?${search}` : ''}`;
}

const hash = signal(location.hash);
addEventListener('hashchange', () => (hash.value = location.hash));

export const route = computed(() => parse(hash.value));

/** Go to a place. @param {string} to as `link` makes it */
export function go(to) {
  location.hash = to;
}

/** Change the filters of this place, without a new step for «back». @param {Record<string, string>} change */
export function refine(change) {
  const { place, id, query } = route.value;
  history.replaceState(null, '', link(place, id, { ...query, ...change }));
  hash.value = location.hash;
}
