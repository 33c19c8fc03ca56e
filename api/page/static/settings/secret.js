/** A secret, shown once. */
import { html } from '../lib.js';
import { Copy, Dialog } from '../parts.js';
import { t } from '../words.js';

/** @param {{title: string, about: string, secret: string, onClose: () => void}} props */
export function Secret({ title, about, secret, onClose }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <p>${about}</p>
    <div class="code"><pre tabindex="0" aria-label=${title}>${secret}</pre><${Copy} class="over" text=${secret} /></div>
    <div class="row end"><button type="button" class="primary" onClick=${onClose}>${t('I have kept it')}</button></div>
  </${Dialog}>`;
}
