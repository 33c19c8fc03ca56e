/** What the reader asks, and the request that comes of it. */
import { choices } from '../kept.js';
import { effect, signal } from '../lib.js';
import { language } from '../words.js';

/** The usual prompts. @type {Record<'en' | 'zh', [string, string][]>} */
export const USUAL = {
  en: [
    ['Describe', 'Describe this image.'],
    ['Describe a video', 'Describe this video.'],
    ['Alt text', 'Write alt text for this picture in one sentence.'],
    ['Tags', 'List ten tags for this picture, separated by commas.'],
    ['Read the text', 'Read all text in this picture, line by line.'],
    ['JSON', 'Describe this picture as JSON with the fields title, description and tags.'],
  ],
  zh: [
    ['描述', '请用中文描述一下这张图片'],
    ['描述视频', '请用中文描述一下这段视频'],
    ['替代文本', '请用一句话为这张图片写替代文本。'],
    ['标签', '请为这张图片列出十个标签，用逗号分隔。'],
    ['识别文字', '请逐行读出图片中的所有文字。'],
    ['JSON', '请用 JSON 描述这张图片，包含 title、description 和 tags 字段。'],
  ],
};

/** Numbers that may be given; left empty, the service's own hold. @type {[name: string, words: string, least: number, most: number, step: string, placeholder: string][]} */
export const NUMBERS = [
  ['temperature', 'temperature', 0, 2, '0.05', '0.1'],
  ['top_p', 'top-p', 0.001, 1, '0.001', '0.001'],
  ['repetition_penalty', 'repetition penalty', 0.05, 2, '0.05', '1.05'],
  ['max_tokens', 'most tokens', 1, 32_768, '1', '512'],
  ['seed', 'seed', 0, 2 ** 53 - 1, '1', '–'],
  ['min_pixels', 'least pixels', 1, 100_000_000, '1', '200704'],
  ['max_pixels', 'most pixels', 1, 100_000_000, '1', '1003520'],
  ['fps', 'frames a second', 0.1, 60, '0.1', '2'],
];
const OF_MEDIA = new Set(['min_pixels', 'max_pixels', 'fps']);

export const prompt = signal(/** @type {string} */ (choices.get('prompt') ?? USUAL[language.value][0]?.[1] ?? ''));
export const system = signal('');
export const numbers = signal(/** @type {Record<string, string>} */ ({}));
export const schema = signal('');
export const model = signal('');
/** Whether several files are one question, or one each. */
export const together = signal(false);

effect(() => {
  choices.set('prompt', prompt.value);
});

// A usual prompt follows the reader's language; what they wrote themselves stays.
effect(() => {
  const own = USUAL[language.value];
  const other = USUAL[language.value === 'en' ? 'zh' : 'en'];
  const n = other.findIndex(([, text]) => text === prompt.peek());
  if (n >= 0) prompt.value = own[n]?.[1] ?? prompt.peek();
});

/** Say what is wrong with the JSON schema, if anything. */
export function schemaProblem() {
  if (!schema.value.trim()) return '';
  try {
    const parsed = JSON.parse(schema.value);
    return parsed && typeof parsed === 'object' && !Array.isArray(parsed) ? '' : 'a JSON schema is an object';
  } catch (error) {
    return /** @type {Error} */ (error).message;
  }
}

/** @param {(name: string) => boolean} which */
function given(which) {
  const pairs = Object.entries(numbers.value).filter(([name, value]) => which(name) && value.trim() !== '');
  return Object.fromEntries(pairs.map(([name, value]) => [name, Number(value)]));
}

/**
 * Make the body of POST /v1/jobs: the short form where it says all, else messages.
 * @param {{kind: string, name: string}[]} media
 * @param {string[]} refs what the request names them by, in order
 */
export function request(media, refs) {
  const sampling = { ...given((name) => !OF_MEDIA.has(name)), ...(schema.value.trim() ? { response_format: format() } : {}) };
  const limits = given((name) => OF_MEDIA.has(name));
  const names = media.map((item) => item.name.slice(0, 200));
  const rest = {
    ...(model.value ? { model: model.value } : {}),
    ...(Object.keys(sampling).length ? { sampling } : {}),
    metadata: { file: names.length === 1 ? names[0] : names },
  };
  const videos = media.filter((item) => item.kind === 'video').length;
  if (!system.value.trim() && !Object.keys(limits).length && videos <= 1) {
    const images = refs.filter((_, n) => media[n]?.kind === 'image');
    const video = refs.find((_, n) => media[n]?.kind === 'video');
    return { prompt: prompt.value, ...(images.length ? { images } : {}), ...(video ? { video } : {}), ...rest };
  }
  return { messages: messages(media, refs, limits), ...rest };
}

/** @param {{kind: string}[]} media @param {string[]} refs @param {Record<string, number>} limits */
function messages(media, refs, limits) {
  const { fps, ...pixels } = limits;
  const parts = media.map((item, n) =>
    item.kind === 'image'
      ? { type: 'image', image: refs[n], ...pixels }
      : { type: 'video', video: refs[n], ...pixels, ...(fps === undefined ? {} : { fps }) },
  );
  const user = { role: 'user', content: [...parts, { type: 'text', text: prompt.value }] };
  return system.value.trim() ? [{ role: 'system', content: system.value }, user] : [user];
}

function format() {
  return { type: 'json_schema', json_schema: { name: 'answer', schema: JSON.parse(schema.value) } };
}
