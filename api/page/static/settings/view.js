/** Settings: keys, webhook endpoints, batches and files. */
import { html } from '../lib.js';
import { t } from '../words.js';
import { Batches } from './batches.js';
import { Endpoints } from './endpoints.js';
import { Files } from './files.js';
import { Keys } from './keys.js';

export function Settings() {
  return html`<h1 class="sr">${t('Settings')}</h1><div class="stack"><${Keys} /><${Endpoints} /><${Batches} /><${Files} />
    <p><a href="docs">${t('Documentation of the API')}</a></p></div>`;
}
