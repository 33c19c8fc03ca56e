/** What the gateway wrote into the page when it served it: settings that no request need ask for. */

/** @typedef {{read_only: boolean, keys: boolean, max_upload_bytes: number, limit_images: number, limit_videos: number}} Facts */

/** @type {Facts} */
export const facts = JSON.parse(document.querySelector('meta[name=sightline]')?.getAttribute('content') ?? '{}');

/** The folder that the page lies in; the API is beside it, also behind a proxy's prefix. */
export const base = new URL('.', document.baseURI).href.replace(/[?#].*$/, '');
