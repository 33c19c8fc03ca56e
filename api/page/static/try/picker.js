/** Putting pictures and videos in: drop, paste, choose, photograph, an address, or one of the samples. */
import { number, size } from '../format.js';
import { html, useRef, useSignal } from '../lib.js';
import { workers } from '../shell.js';
import { t } from '../words.js';
import { Camera } from './camera.js';
import { together } from './form.js';
import { add, addAddress, clear, items, refused, remove } from './media.js';
import { fitTogether } from './view.js';

const SAMPLES = ['1.jpg', '2.jpg', '3.jpg'];
const SAMPLES_AT = new URL('../samples/', import.meta.url).href;
/** More than so many would push the question out of sight: then a few are shown, and how many others there are. */
const MOST_THUMBS = 12;
const FEW_THUMBS = 7;
const ACCEPTED = 'image/*,video/*,.heic,.heif,.hif,.jp2,.mkv,.mts,.flv';

/** @param {{item: import('./media.js').Item}} props */
function Thumb({ item }) {
  const told = useSignal('');
  const broken = useSignal(false); // a kind that the gateway takes and this browser does not show
  const onError = () => (broken.value = true);
  const onVideo = (/** @type {any} */ event) => (told.value = `${Math.round(event.target.duration)} s`);
  const onPicture = (/** @type {any} */ event) => (told.value = `${event.target.naturalWidth}×${event.target.naturalHeight}`);
  let picture = html`<span class="address">${item.name.slice(0, 80)}</span>`;
  const shows = item.shown && !broken.value;
  if (shows && item.kind === 'image') picture = html`<img src=${item.shown} alt="" onLoad=${onPicture} onError=${onError} />`;
  if (shows && item.kind === 'video') picture = html`<video src=${item.shown} muted playsinline preload="metadata" onLoadedMetadata=${onVideo} onError=${onError}></video>`;
  return html`<li class="thumb" title=${item.name}>
    ${picture}
    <span class="fine">${[item.kind === 'video' ? '▶' : '', told.value, item.file ? size(item.file.size) : ''].filter(Boolean).join(' ')}</span>
    <button type="button" class="remove" aria-label=${t('remove {name}', { name: item.name })} onClick=${() => remove(item)}><span aria-hidden="true">×</span></button>
  </li>`;
}

/** What the demo model knows, and pictures that it can describe. */
function Samples() {
  const isDemo = workers.value?.some((worker) => worker.checkpoint === 'demo');
  if (!isDemo || items.value.length) return null;
  const take = async (/** @type {string} */ name) => {
    const picture = await (await fetch(SAMPLES_AT + name)).blob();
    await add([{ file: picture, name }]);
  };
  return html`<div class="samples">
    <p>${t('This is the demo model: it knows coloured shapes and nothing else. Here are three pictures it can describe:')}</p>
    <ul>${SAMPLES.map((name, n) => html`<li><button type="button" class="sample" aria-label=${t('sample {n}', { n: n + 1 })} onClick=${() => take(name)}><img src=${SAMPLES_AT + name} alt="" width="72" height="72" /></button></li>`)}</ul>
  </div>`;
}

function Address() {
  const address = useSignal('');
  const wrong = useSignal('');
  const onSubmit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const given = address.value.trim();
    if (!given) return;
    const fits = /^(https?:\/\/[^/\s]+|data:(image|video)\/)/i.test(given);
    wrong.value = fits ? '' : t('An address begins with http:// or https://.');
    if (!fits) return;
    addAddress(given);
    address.value = '';
  };
  return html`<form class="row" onSubmit=${onSubmit}>
    <input class="grow" type="text" inputmode="url" placeholder=${t('or an address: https://…')} aria-label=${t('address of a picture or video')} value=${address} onInput=${(/** @type {any} */ event) => (address.value = event.target.value)} />
    <button type="submit">${t('add')}</button>
  </form>${wrong.value && html`<p class="wrong" role="alert">${wrong.value}</p>`}`;
}

export function Picker() {
  const file = useRef(/** @type {HTMLInputElement | null} */ (null));
  const directory = useRef(/** @type {HTMLInputElement | null} */ (null));
  const photographs = useSignal(false);
  const onChoose = async (/** @type {any} */ event) => {
    const chosen = [.../** @type {FileList} */ (event.target.files)];
    event.target.value = '';
    await add(chosen.filter((one) => !one.name.startsWith('.')).map((one) => ({ file: one, name: one.webkitRelativePath || one.name })));
  };
  const n = items.value.length;
  const shown = n > MOST_THUMBS ? FEW_THUMBS : n;
  return html`<section class="card picker" aria-label=${t('pictures and videos')}>
    <button type="button" class="drop" onClick=${() => file.current?.click()}>
      <span class="big">${t('Drop, paste or choose pictures and videos')}</span>
    </button>
    <div class="row wrap">
      <button type="button" onClick=${() => directory.current?.click()}>${t('folder')}</button>
      <button type="button" onClick=${() => (photographs.value = true)}>${t('photograph')}</button>
      ${n > 1 && html`<button type="button" class="quiet" onClick=${clear}>${t('remove all {n}', { n })}</button>`}
    </div>
    <input ref=${file} class="sr" type="file" multiple accept=${ACCEPTED} tabindex="-1" aria-hidden="true" data-part="file" onChange=${onChoose} />
    <input ref=${directory} class="sr" type="file" webkitdirectory multiple tabindex="-1" aria-hidden="true" data-part="folder" onChange=${onChoose} />
    ${n > 0 && html`<ul class="thumbs">${items.value.slice(0, shown).map((item) => html`<${Thumb} key=${item.shown || item.name} item=${item} />`)}${n > shown && html`<li class="more">+ ${number(n - shown)}</li>`}</ul>`}
    ${refused.value.length > 0 && html`<div class="refused" role="alert"><p>${t('{n} not taken:', { n: refused.value.length })}</p><ul>${refused.value.slice(0, 5).map(({ name, why }) => html`<li><strong>${name}</strong>: ${why}</li>`)}</ul></div>`}
    <${Address} />
    ${fitTogether() && html`<label class="check"><input type="checkbox" checked=${together} onChange=${(/** @type {any} */ event) => (together.value = event.target.checked)} /> ${t('one question about all of them together')}</label>`}
    <${Samples} />
    ${photographs.value && html`<${Camera} onClose=${() => (photographs.value = false)} />`}
  </section>`;
}
