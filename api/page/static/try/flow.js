/** A text that grows: whoever shows it gets one write for a frame, and only what is new. */
export class TextFlow {
  #text = '';

  #new = '';

  #scheduled = false;

  /** @type {HTMLElement | null} */
  #element = null;

  get text() {
    return this.#text;
  }

  /** @param {string} piece */
  append(piece) {
    this.#text += piece;
    this.#new += piece;
    if (this.#scheduled || !this.#element) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#element?.append(this.#new); // as text: what a model says is never markup
      this.#new = '';
    });
  }

  /** Begin again: the job did, on another worker. */
  reset() {
    this.become('');
  }

  /** @param {string} text the whole of it */
  become(text) {
    if (text === this.#text) return;
    this.#text = text;
    this.show(this.#element);
  }

  /** @param {HTMLElement | null} element where it is shown from now on */
  show(element) {
    this.#element = element;
    this.#new = '';
    if (element) element.textContent = this.#text;
  }
}
