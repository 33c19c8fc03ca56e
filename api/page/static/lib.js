/** The vendored libraries, at one place: Preact, its hooks, signals, and htm bound to Preact. */
import { h } from './vendor/preact.js';
import htm from './vendor/htm.js';

export { h, render, Fragment, createRef } from './vendor/preact.js';
export { useEffect, useLayoutEffect, useMemo, useRef } from './vendor/hooks.js';
export { batch, computed, effect, signal, untracked, useComputed, useSignal, useSignalEffect } from './vendor/signals.js';

/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(h);

/**
 * @template T
 * @typedef {import('@preact/signals').Signal<T>} Signal
 */
