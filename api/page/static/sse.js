/** Server-sent events out of pieces of text. `EventSource` cannot send a key in a header, so they are read by `fetch`. */

/** @typedef {{id: string, type: string, data: any}} Event */

export class EventParser {
  #rest = '';

  /** @type {{id: string, type: string, data: string[]}} */
  #open = { id: '', type: '', data: [] };

  /**
   * Take a piece of the stream, wherever it was cut.
   * @param {string} piece
   * @returns {Event[]} the events that it completes
   */
  feed(piece) {
    const lines = (this.#rest + piece).split('\n');
    this.#rest = lines.pop() ?? '';
    /** @type {Event[]} */
    const events = [];
    for (const line of lines) {
      const text = line.endsWith('\r') ? line.slice(0, -1) : line;
      if (text) this.#take(text);
      else if (this.#open.data.length) events.push(this.#close());
    }
    return events;
  }

  /** @param {string} line */
  #take(line) {
    const at = line.indexOf(':');
    const name = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? '' : line.slice(at + 1).replace(/^ /, '');
    if (name === 'data') this.#open.data.push(value);
    else if (name === 'id') this.#open.id = value;
    else if (name === 'event') this.#open.type = value;
  }

  #close() {
    const { id, type, data } = this.#open;
    this.#open = { id: '', type: '', data: [] };
    return { id, type: type || 'message', data: JSON.parse(data.join('\n')) };
  }
}
