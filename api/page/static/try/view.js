/** Try: pictures and a prompt on the left, the text as it comes on the right. */
import { facts } from '../facts.js';
import { html, signal, useEffect } from '../lib.js';
import { t } from '../words.js';
import { Earlier, remember } from './earlier.js';
import { Folder, FolderRun } from './folder.js';
import { schemaProblem, prompt, together } from './form.js';
import { add, filesOf, items } from './media.js';
import { Picker } from './picker.js';
import { Question } from './question.js';
import { Result } from './result.js';
import { Run } from './run.js';

/** What is being tried: one run, or one for each file. */
export const run = signal(/** @type {Run | null} */ (null));
export const folder = signal(/** @type {FolderRun | null} */ (null));

/** Whether this many pictures and videos may be one question. */
export function fitTogether() {
  const videos = items.value.filter((item) => item.kind === 'video').length;
  return items.value.length > 1 && videos <= facts.limit_videos && items.value.length - videos <= facts.limit_images;
}

/** Why nothing can be sent yet; empty where it can. */
export function obstacle() {
  if (!items.value.length) return t('Add a picture or a video first.');
  if (!prompt.value.trim()) return t('Write what you want to know.');
  return schemaProblem() ? t('The JSON schema is none.') : '';
}

export async function describe() {
  if (obstacle()) return;
  run.value?.leave();
  folder.value?.leave();
  const media = [...items.value];
  for (const item of media) item.asked = true;
  const told = document.querySelector('.told');
  if (told && told.getBoundingClientRect().top > innerHeight / 2) told.scrollIntoView({ block: 'start' }); // a phone has one column
  if (media.length === 1 || (together.value && fitTogether())) {
    const next = new Run(media);
    folder.value = null;
    run.value = next;
    await next.start();
    if (next.id.value) remember(next);
  } else {
    run.value = null;
    folder.value = new FolderRun(media);
    await folder.value.start();
  }
}

export function stop() {
  run.value?.stop();
  folder.value?.stop();
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    describe();
  } else if (event.key === 'Escape' && !document.querySelector('dialog[open]')) {
    stop();
  }
}

/** @param {ClipboardEvent} event */
async function onPaste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return; // text goes where the cursor is
  event.preventDefault();
  await add(files.map((file) => ({ file, name: file.name })));
}

/** @param {DragEvent} event */
function onDrag(event) {
  if (event.dataTransfer?.types.includes('Files')) event.preventDefault();
  document.body.classList.toggle('dropping', event.type === 'dragover');
}

/** @param {DragEvent} event */
async function onDrop(event) {
  if (!event.dataTransfer) return;
  event.preventDefault();
  document.body.classList.remove('dropping');
  await add(await filesOf(event.dataTransfer));
}

export function Try() {
  useEffect(() => {
    const own = new AbortController();
    addEventListener('keydown', onKey, own);
    addEventListener('paste', onPaste, own);
    addEventListener('dragover', onDrag, own);
    addEventListener('dragleave', onDrag, own);
    addEventListener('drop', onDrop, own);
    return () => own.abort();
  }, []);
  return html`<h1 class="sr">${t('Try')}</h1>
    <div class="try">
      <div class="ask"><${Picker} /><${Question} /></div>
      <div class="told">${folder.value ? html`<${Folder} run=${folder.value} />` : html`<${Result} run=${run.value} key=${run.value?.token} />`}<${Earlier} /></div>
    </div>`;
}
