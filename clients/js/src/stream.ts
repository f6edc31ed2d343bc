/** One of a client's connections: its bytes to the session protocol and back, and its timer. */

import { CloseCode } from "./errors.js";
import type { Environment } from "./environment.js";
import type { ClientEvent } from "./events.js";
import type { Disconnect, Link, LinkHandler } from "./link.js";
import type { ClientProtocol } from "./protocol.js";

/** Longest wait for the gateway's close behind STOP, and behind its last push (PROTOCOL 3.9). */
export const STOP_TIMEOUT_MS = 1_000;
/** A timer later than this means that the page or the process stood still. */
export const LATE_MS = 100;

export interface StreamOwner {
  handleEvents(events: ClientEvent[], now: number): void;
  /** Store the session's state: what is written next depends on it. */
  keepState(): void;
  /** The connection has ended; called once. */
  streamClosed(how: Disconnect): void;
}

export class Stream implements LinkHandler {
  #closeAt = Infinity;
  #timer: unknown = null;
  #timerAt = Infinity;
  #isFlushDue = false;
  #isOver = false;

  constructor(
    readonly owner: StreamOwner,
    readonly link: Link,
    readonly protocol: ClientProtocol,
    readonly environment: Environment,
  ) {}

  /** Begin, or resume, the session on this connection. */
  start(): void {
    this.protocol.connect(this.environment.now());
    this.flush();
    this.link.attach(this);
  }

  /** Send what the protocol has queued at the end of this turn. */
  requestFlush(): void {
    if (!this.#isFlushDue) {
      this.#isFlushDue = true;
      queueMicrotask(() => this.flush());
    }
  }

  /** Send what the protocol has queued, once its state is stored. */
  flush(): void {
    this.#isFlushDue = false;
    if (this.#isOver) return;
    try {
      if (this.protocol.session.isStateDue) this.owner.keepState();
      const frames = this.protocol.takeFrames();
      if (frames.length > 0) this.link.write(frames);
    } catch (error) {
      this.close(CloseCode.INTERNAL_ERROR, String(error));
      return;
    }
    this.#arm();
  }

  /** Close the connection; it has ended then. */
  close(code: number, reason: string): void {
    if (!this.#isOver) {
      this.link.close(code, reason);
      this.linkEnded({ kind: "local", code, reason });
    }
  }

  // LinkHandler.

  dataReceived(data: Uint8Array): void {
    const now = this.environment.now();
    const { protocol } = this;
    this.owner.handleEvents(protocol.receive(data, now), now);
    // In a hidden tab a timer that was set by a timer may be a minute late; set from here it is late
    // by a second. What is due by now does not wait for it.
    this.#timerAt = Infinity;
    if (now > protocol.timer()) this.handleTimer(now);
    else this.requestFlush();
    if (protocol.error !== null) {
      this.flush();
      // A broken rule closes this connection, and the next one resumes.
      this.close(CloseCode.PROTOCOL_ERROR, protocol.error.message);
    } else {
      this.#leaveIfDone(now);
    }
  }

  streamEnded(): void {
    // What the last push means stands in the close code, which follows; but not for ever.
    this.#closeAt = this.environment.now() + 2 * STOP_TIMEOUT_MS;
    this.#arm();
  }

  linkEnded(how: Disconnect): void {
    if (!this.#isOver) {
      this.#isOver = true;
      this.environment.clearTimer(this.#timer);
      this.owner.streamClosed(how);
    }
  }

  // Time.

  /** Look at the protocol's deadlines now. */
  handleTimer(now: number): void {
    if (this.#isOver) return;
    this.protocol.handleTimer(now);
    if (this.protocol.isSilent) {
      this.close(CloseCode.TIMEOUT, "silent");
    } else if (now >= this.#closeAt) {
      this.close(CloseCode.NORMAL, "");
    } else {
      this.flush();
      this.#leaveIfDone(now);
    }
  }

  #leaveIfDone(now: number): void {
    if (this.#isOver || !this.protocol.isLeft(now)) return;
    // PROTOCOL 3.9: "wait for the answers to what was sent, ack, close the connection".
    this.protocol.sendAck();
    this.flush();
    this.close(CloseCode.NORMAL, "goaway");
  }

  /** Set the timer to the protocol's next deadline; one that comes early only looks again. */
  #arm(): void {
    const at = Math.min(this.protocol.timer(), this.#closeAt);
    if (this.#isOver || at >= this.#timerAt || at === Infinity) return;
    const { environment } = this;
    environment.clearTimer(this.#timer);
    this.#timerAt = at;
    this.#timer = environment.setTimer(() => this.#ring(at), at - environment.now());
  }

  #ring(at: number): void {
    const { environment } = this;
    if (environment.now() - at > LATE_MS) {
      // After a stall what has arrived goes first: the gateway may not have been silent.
      this.#timer = environment.setTimer(() => this.#look(), LATE_MS);
    } else {
      this.#look();
    }
  }

  #look(): void {
    this.#timerAt = Infinity;
    this.handleTimer(this.environment.now());
    this.#arm();
  }
}
