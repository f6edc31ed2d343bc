/** A bounded buffer of notifies that the application has not read yet. */

import { GatesvrError, NotifyOverflow, type LostReason } from "./errors.js";
import type { Texts } from "./wire.js";

/** A message that a service pushed (PROTOCOL 7.6). */
export interface Notify {
  /** What kind of message it is, in the service's own words. */
  readonly msgType: string;
  readonly title: string;
  readonly content: string;
  /** Its payload; the content where the service gave no data. */
  readonly data: Uint8Array;
  /** The service's metadata, and the three texts above. */
  readonly headers: Texts;
  /** Its place in the session's outgoing order. */
  readonly serverSeq: number;
}

/** Messages that the gateway let go before they were delivered (PROTOCOL 2.6). */
export interface Lost {
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly reason: LostReason;
}

type Entry = { notify: Notify } | { lost: Lost } | { error: GatesvrError };

interface Reader {
  resolve(result: IteratorResult<Notify, undefined>): void;
  reject(error: unknown): void;
}

/**
 * Keeps up to a number of notifies in order, and every gap between them in its place.
 *
 * When it is full, what comes is dropped, and the reader gets a NotifyOverflow where it would have
 * stood. So a reader that is slow knows what it missed, and one that never reads costs no more than
 * the bound.
 */
export class NotifyBuffer {
  /** Notifies dropped because the buffer was full. */
  dropped = 0;
  readonly #entries: Entry[] = [];
  readonly #readers: Reader[] = [];
  #inHand = 0; // first server seq of what the reader has and did not come back from
  #ended = 0; // entries at the front whose session is over
  #isClosed = false;

  /**
   * @param onLost Called with what the gateway lost when the reader comes to its place.
   * @param onRead Called when the reader is done with something.
   */
  constructor(
    readonly maxNotifies: number,
    readonly onLost: (lost: Lost) => void,
    readonly onRead: () => void,
  ) {}

  get length(): number {
    return this.#entries.length;
  }

  /**
   * The lowest server seq of the session that the reader is not done with, 0 for none. The reader
   * has finished a notify when it asks for the next one.
   */
  get firstUnread(): number {
    const entry = this.#entries[this.#ended];
    return this.#inHand || (entry === undefined ? 0 : firstSeq(entry));
  }

  /** Add a notify, or drop it where the buffer is full. */
  put(notify: Notify): void {
    if (this.#entries.length < this.maxNotifies) this.#add({ notify });
    else this.#drop(1, notify.serverSeq, notify.serverSeq);
  }

  /** Add word of a loss; where the buffer is full it counts as dropped like a notify. */
  putLost(lost: Lost): void {
    const last = this.#last;
    if (last !== undefined && "lost" in last && last.lost.reason === lost.reason) {
      last.lost = { ...last.lost, lastSeq: lost.lastSeq };
    } else if (this.#entries.length < this.maxNotifies) {
      this.#add({ lost });
    } else {
      this.#drop(lost.lastSeq - lost.firstSeq + 1, lost.firstSeq, lost.lastSeq);
    }
  }

  /** Add an error for the reader to get in its place; it does not end the buffer. */
  putError(error: GatesvrError): void {
    this.#add({ error });
  }

  /** Mark the session as over: entries here no longer hold its position back. */
  endSession(): void {
    this.#ended = this.#entries.length;
    this.#inHand = 0;
  }

  /** Record that the reader has finished what it holds. */
  settle(): void {
    if (this.#inHand) {
      this.#inHand = 0;
      this.onRead();
    }
  }

  /** Stop readers once they have read the entries. */
  close(): void {
    this.#isClosed = true;
    this.#serve();
  }

  /**
   * Return the next notify, or the end.
   *
   * Rejects with NotifyOverflow where some were dropped, and with SessionLost where the session
   * ended; the next call goes on behind that.
   */
  get(): Promise<IteratorResult<Notify, undefined>> {
    this.settle();
    return new Promise((resolve, reject) => {
      this.#readers.push({ resolve, reject });
      this.#serve();
    });
  }

  get #last(): Entry | undefined {
    return this.#entries.length > this.#ended ? this.#entries.at(-1) : undefined;
  }

  #add(entry: Entry): void {
    this.#entries.push(entry);
    this.#serve();
  }

  #drop(count: number, first: number, last: number): void {
    this.dropped += count;
    const entry = this.#last;
    if (entry !== undefined && "error" in entry && entry.error instanceof NotifyOverflow) {
      const { error } = entry;
      entry.error = new NotifyOverflow(error.count + count, error.firstSeq, last);
    } else {
      this.#entries.push({ error: new NotifyOverflow(count, first, last) });
    }
  }

  #serve(): void {
    while (this.#readers.length > 0) {
      const entry = this.#entries.shift();
      if (entry === undefined) {
        if (!this.#isClosed) return;
        this.#readers.shift()?.resolve({ done: true, value: undefined });
        continue;
      }
      if (this.#ended > 0) this.#ended--;
      else this.#inHand = firstSeq(entry);
      if ("lost" in entry) {
        this.onLost(entry.lost);
        this.settle();
        continue;
      }
      const reader = this.#readers.shift();
      if ("error" in entry) reader?.reject(entry.error);
      else reader?.resolve({ done: false, value: entry.notify });
    }
  }
}

function firstSeq(entry: Entry): number {
  if ("notify" in entry) return entry.notify.serverSeq;
  if ("lost" in entry) return entry.lost.firstSeq;
  return entry.error instanceof NotifyOverflow ? entry.error.firstSeq : 0;
}
