/** A request as code, in the four ways that people ask in. The key is never in it, only the name of its variable. */

/** @param {unknown} value @param {number} [depth] @returns {string} as Python writes it */
export function python(value, depth = 0) {
  const inner = '    '.repeat(depth + 1);
  const outer = '    '.repeat(depth);
  if (value === null || value === undefined) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (Array.isArray(value)) {
    if (value.every((one) => typeof one !== 'object')) return `[${value.map((one) => python(one)).join(', ')}]`;
    return `[\n${value.map((one) => `${inner}${python(one, depth + 1)},\n`).join('')}${outer}]`;
  }
  if (typeof value === 'object') {
    const pairs = Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, depth + 1)}`);
    if (pairs.join(', ').length < 90 && !pairs.some((pair) => pair.includes('\n'))) return `{${pairs.join(', ')}}`;
    return `{\n${pairs.map((pair) => `${inner}${pair},\n`).join('')}${outer}}`;
  }
  return JSON.stringify(value);
}

/** @param {string} base @param {any} body @param {boolean} keys */
export function curl(base, body, keys) {
  const quoted = `'${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`;
  const key = keys ? ` \\\n  -H "Authorization: Bearer $SIGHTLINE_API_KEY"` : '';
  return `curl -sS ${base}v1/jobs \\\n  -H 'Content-Type: application/json' -H 'Prefer: wait=60'${key} \\\n  -d ${quoted}\n`;
}

/** @param {string} base @param {any} body */
export function sightline(base, body) {
  return `from sightline.client import Client

# Where the service asks for an API key, it is read from SIGHTLINE_API_KEY.
with Client(${JSON.stringify(base.replace(/\/$/, ''))}) as client:
    job = client.submit(${python(body, 1)})
    print(client.wait(job["id"])["output"]["text"])
`;
}

/** @param {any} part @returns {any} a part of a message, as OpenAI writes it */
function openaiPart(part) {
  if (part.type === 'text') return part;
  const ref = part.image ?? part.video;
  if (Array.isArray(ref)) return part; // frames of a video
  if (ref.startsWith('file-')) return { type: 'file', file: { file_id: ref } };
  return part.type === 'image' ? { type: 'image_url', image_url: { url: ref } } : { type: 'video_url', video_url: { url: ref } };
}

/** @param {any} body of POST /v1/jobs @returns {any[]} its messages, as OpenAI writes them */
function openaiMessages(body) {
  const media = [...(body.images ?? []).map((/** @type {string} */ image) => ({ type: 'image', image })), ...(body.video ? [{ type: 'video', video: body.video }] : [])];
  const messages = body.messages ?? [{ role: 'user', content: [...media, { type: 'text', text: body.prompt }] }];
  return messages.map((/** @type {any} */ message) => ({ ...message, content: Array.isArray(message.content) ? message.content.map(openaiPart) : message.content }));
}

/** @param {any} body @returns {{known: Record<string, any>, extra: Record<string, any>}} what the openai package has names for, and the rest */
function options(body) {
  const { repetition_penalty: penalty, ...known } = body.sampling ?? {};
  const limits = Object.assign({}, ...(body.messages ?? []).flatMap((/** @type {any} */ message) => (Array.isArray(message.content) ? message.content : [])).map(limitsOf));
  return { known, extra: { ...(penalty === undefined ? {} : { repetition_penalty: penalty }), ...(Object.keys(limits).length ? { mm_processor_kwargs: limits } : {}) } };
}

/** @param {any} part */
function limitsOf({ min_pixels: min, max_pixels: max, fps }) {
  return { ...(min === undefined ? {} : { min_pixels: min }), ...(max === undefined ? {} : { max_pixels: max }), ...(fps === undefined ? {} : { fps }) };
}

/** @param {Record<string, any>} known @param {Record<string, any>} extra */
function asArguments(known, extra) {
  const pairs = [...Object.entries(known), ...(Object.keys(extra).length ? [['extra_body', extra]] : [])];
  return pairs.map(([name, value]) => `    ${name}=${python(value, 1)},\n`).join('');
}

const KEY = 'os.environ.get("SIGHTLINE_API_KEY", "EMPTY")';

/** @param {string} base @param {any} body @param {string} model */
export function openai(base, body, model) {
  const { known, extra } = options(body);
  return `import os
from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${base}v1`)}, api_key=${KEY})
answer = client.chat.completions.create(
    model=${JSON.stringify(model)},
    messages=${python(openaiMessages(body), 1)},
${asArguments(known, extra)})
print(answer.choices[0].message.content)
`;
}

/** @param {string} base @param {any} body @param {string} model */
export function langchain(base, body, model) {
  const { known, extra } = options(body);
  const { response_format: format, ...rest } = known;
  const bound = format ? `.bind(response_format=${python(format)})` : '';
  return `import os
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=${JSON.stringify(model)},
    base_url=${JSON.stringify(`${base}v1`)},
    api_key=${KEY},
${asArguments(rest, extra)})${bound}
print(model.invoke(${python(openaiMessages(body))}).content)
`;
}
