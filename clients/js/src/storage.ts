/**
 * Keeps a session's state over a page's reload, for one page at a time.
 *
 * A browser copies sessionStorage when it duplicates a tab, and two clients with one session would
 * throw each other out. So whoever uses a stored state holds a Web Lock of the name that is stored
 * beside it; a tab that finds it taken begins a session of its own, under another name.
 */

import type { Environment } from "./environment.js";

/** What a state is stored in; sessionStorage and localStorage are such. */
export interface TextStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** What the client uses of navigator.locks. */
export interface LockManager {
  request(
    name: string,
    options: { signal?: AbortSignal },
    held: () => Promise<void>,
  ): Promise<unknown>;
}

/** How long a page that is about to go may hold the lock of the page that takes its place, ms. */
const LOCK_TIMEOUT_MS = 500;

type Timers = Pick<Environment, "setTimer" | "clearTimer">;

export class StateStore {
  #name = "";
  #release: (() => void) | null = null;

  constructor(
    readonly storage: TextStorage,
    readonly key: string,
    /** Null where the platform has none: then nothing else uses the storage. */
    readonly locks: LockManager | null,
    readonly timers: Timers,
  ) {}

  /** Return the stored state, which nobody else uses; "" for none. */
  async load(): Promise<string> {
    const [name, state] = this.#read();
    if (name && (await this.#lock(name))) return state;
    await this.#lock(`${Date.now()}-${Math.random()}`);
    return "";
  }

  /** Store a state in place of the last one. */
  save(state: string): void {
    this.storage.setItem(this.key, `${this.#name} ${state}`);
  }

  /** Let another client use the stored state. */
  release(): void {
    this.#release?.();
    this.#release = null;
  }

  #read(): [string, string] {
    const stored = this.storage.getItem(this.key) ?? "";
    const space = stored.indexOf(" ");
    return [stored.slice(0, Math.max(space, 0)), stored.slice(space + 1)];
  }

  /** Return whether the lock of a name is ours until release(). */
  async #lock(name: string): Promise<boolean> {
    this.#name = name;
    const { locks, timers } = this;
    if (locks === null) return true;
    const release = new Promise<void>((resolve) => (this.#release = resolve));
    const patience = new AbortController();
    const timer = timers.setTimer(() => patience.abort(), LOCK_TIMEOUT_MS);
    return new Promise((resolve) => {
      locks
        .request(`gatesvr:${name}`, { signal: patience.signal }, () => {
          timers.clearTimer(timer);
          resolve(true);
          return release;
        })
        .catch(() => resolve(false));
    });
  }
}
