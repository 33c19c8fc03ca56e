/** What a browser keeps for the reader: choices for good, the key and earlier runs as long as the tab. Either may be forbidden. */

/**
 * @param {Storage} store
 * @param {string} name
 * @returns {any} what was kept, or null
 */
function read(store, name) {
  try {
    return JSON.parse(store.getItem(`sightline.${name}`) ?? 'null');
  } catch {
    return null;
  }
}

/**
 * @param {Storage} store
 * @param {string} name
 * @param {unknown} value null forgets it
 */
function write(store, name, value) {
  try {
    if (value === null) store.removeItem(`sightline.${name}`);
    else store.setItem(`sightline.${name}`, JSON.stringify(value));
  } catch {
    // full, or forbidden: it lasts as long as the page
  }
}

/** @param {() => Storage} get */
function shelf(get) {
  /** @type {Storage | null} */
  let store = null;
  try {
    store = get();
  } catch {
    // a browser that forbids storage throws when it is only named
  }
  return {
    /** @param {string} name */
    get: (name) => (store ? read(store, name) : null),
    /** @param {string} name @param {unknown} value */
    set: (name, value) => store && write(store, name, value),
  };
}

export const choices = shelf(() => localStorage);
export const session = shelf(() => sessionStorage);
