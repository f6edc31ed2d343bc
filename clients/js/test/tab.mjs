/** What a browser gives to each tab, for the tests. */

/** One tab's sessionStorage. */
export class Storage {
  #items;

  constructor(items = []) {
    this.#items = new Map(items);
  }

  getItem = (key) => this.#items.get(key) ?? null;
  setItem = (key, value) => void this.#items.set(key, value);
  duplicate = () => new Storage(this.#items);
}

/** The browser's locks: exclusive, first come first served. */
export class Locks {
  held = new Map();

  async request(name, { signal }, hold) {
    while (this.held.has(name)) {
      const aborted = new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
      });
      await Promise.race([this.held.get(name), aborted]);
    }
    const holding = hold();
    this.held.set(name, holding);
    await holding;
    this.held.delete(name);
  }
}
