/** One picture from a camera. Browsers lend it only on https and on localhost. */
import { html, useEffect, useRef, useSignal } from '../lib.js';
import { Dialog } from '../parts.js';
import { t } from '../words.js';
import { add } from './media.js';

/** @param {{onClose: () => void}} props */
export function Camera({ onClose }) {
  const video = useRef(/** @type {HTMLVideoElement | null} */ (null));
  const wrong = useSignal('');
  const ready = useSignal(false);
  useEffect(() => {
    /** @type {MediaStream | null} */
    let stream = null;
    let left = false;
    (async () => {
      try {
        if (!navigator.mediaDevices) throw new Error(t('Browsers lend the camera only to pages on https or localhost.'));
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1920 } } });
        if (left) stream.getTracks().forEach((track) => track.stop());
        else if (video.current) video.current.srcObject = stream;
      } catch (error) {
        wrong.value = /** @type {Error} */ (error).message;
      }
    })();
    return () => {
      left = true;
      stream?.getTracks().forEach((track) => track.stop());
    };
  }, []);
  const take = () => {
    const shown = video.current;
    if (!shown) return;
    const canvas = document.createElement('canvas');
    canvas.width = shown.videoWidth;
    canvas.height = shown.videoHeight;
    canvas.getContext('2d')?.drawImage(shown, 0, 0);
    canvas.toBlob(async (picture) => {
      if (picture) await add([{ file: picture, name: `photo-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.jpg` }]);
      onClose();
    }, 'image/jpeg', 0.92);
  };
  return html`<${Dialog} title=${t('photograph')} onClose=${onClose}>
    ${wrong.value ? html`<p class="wrong" role="alert">${wrong.value}</p>` : html`<video class="camera" ref=${video} autoplay muted playsinline onLoadedData=${() => (ready.value = true)}></video>`}
    <div class="row end"><button type="button" onClick=${onClose}>${t('close')}</button><button type="button" class="primary" disabled=${!ready.value} onClick=${take}>${t('take')}</button></div>
  </${Dialog}>`;
}
