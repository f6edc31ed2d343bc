/** A promise that is settled from outside, and whose failure nobody has to await. */

export class Deferred<T> {
  isDone = false;
  /** Whether it was resolved. */
  isGood = false;
  readonly promise: Promise<T>;
  #resolve!: (value: T) => void;
  #reject!: (error: unknown) => void;

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.promise.catch(() => undefined);
  }

  resolve(value: T): void {
    if (this.isDone) return;
    this.isDone = this.isGood = true;
    this.#resolve(value);
  }

  reject(error: unknown): void {
    if (this.isDone) return;
    this.isDone = true;
    this.#reject(error);
  }
}
