/**
 * Which of the gateways that a client knows it tries next.
 *
 * A session lives at one gateway, its home. So a client whose connection is lost tries that one by
 * itself first, and the others only where it does not answer, or has said that it goes (GOAWAY, or
 * a refusal). Those that are tried at once race.
 */

/** How long a session's home is tried by itself where others are known, ms. */
export const HOME_MS = 3_000;

export class Servers {
  #home: string | null = null;
  #named: string | null = null; // by a GOAWAY
  readonly #last = new Set<string>(); // those that go, or have failed, in this round of tries

  /** @param urls At least one, in the order of preference. */
  constructor(
    readonly urls: readonly string[],
    readonly random: () => number,
  ) {}

  /** Whether a session's home is tried next, by itself although others are known. */
  get isHomeNext(): boolean {
    return this.#named === null && this.#hasOthers() && !this.#last.has(this.#home ?? "");
  }

  /** Whether the home goes away, and another gateway is tried next. */
  get goesElsewhere(): boolean {
    return this.#named !== null || this.#last.has(this.#home ?? "");
  }

  /** Return those to try now, the preferred ones first. */
  next(): string[] {
    if (this.#named !== null) return [this.#named];
    if (this.#home !== null && this.isHomeNext) return [this.#home];
    const good = this.urls.filter((url) => !this.#last.has(url));
    if (this.#last.size > 0) {
      // Else all clients of a gateway that goes would crowd the next one in the order.
      for (let at = good.length - 1; at > 0; at--) {
        const other = Math.floor(this.random() * (at + 1)) % (at + 1);
        [good[at], good[other]] = [good[other] as string, good[at] as string];
      }
    }
    return [...good, ...this.urls.filter((url) => this.#last.has(url))];
  }

  /** A session began, or was resumed, at a gateway: its home from now on. */
  started(url: string): void {
    this.#home = url;
    this.#named = null;
    this.#last.clear();
  }

  /**
   * The home asks its clients to go; return whether there is another one to go to.
   *
   * @param named Where it sends them, null for anywhere.
   */
  leave(named: string | null): boolean {
    this.#named = named;
    if (this.#home === null || !this.#hasOthers()) return named !== null;
    this.#last.add(this.#home);
    return true;
  }

  /**
   * A try failed; return whether others can be tried at once.
   *
   * @param url The one that was connected to and refused START; null where there was none.
   */
  failed(url: string | null): boolean {
    if (this.#named !== null) {
      this.#named = null;
      return false;
    }
    const failed = this.isHomeNext ? this.#home : url;
    if (failed !== null) {
      this.#last.add(failed);
      if (this.urls.some((other) => !this.#last.has(other))) return true;
    }
    this.#last.clear();
    return false;
  }

  #hasOthers(): boolean {
    return this.#home !== null && this.urls.some((url) => url !== this.#home);
  }
}
