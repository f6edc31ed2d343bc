/** When a client acks, when it sends a heartbeat, and when it gives a connection up. */

const ACK_MESSAGES = 16;
const ACK_DELAY_MS = 200;
/** ... and never later than at one part in this many of the messages that the gateway keeps. */
const UNACKED_SHARE = 4;
/** ... or of the bytes: 256 KiB of our gateway's 4 MiB. */
const UNACKED_BYTES_SHARE = 16;
/** What a gateway that does not say keeps. */
const UNACKED_BYTES = 4 << 20;
/** Heartbeat intervals without a byte after which a connection is given up (PROTOCOL 3.8). */
const SILENT_INTERVALS = 2;
/** Shortest time between the heartbeats of a client that waits for an answer. */
const WAITING_MS = 2_000;
/** Longest wait for a sign of life where the page or the network has just come back. */
const PROBE_MS = 5_000;
/** An answer's time is one part in this many of the usual one. */
export const USUAL_SHARE = 8;

/** Decides when one connection acks the position (PROTOCOL 2.5). */
export class AckPacer {
  /** Bytes received since the last ack. */
  receivedBytes = 0;
  /** Time of the next ack, Infinity while everything is acked. */
  dueAt = Infinity;
  readonly #maxMessages: number;
  readonly #maxBytes: number;

  constructor(
    /** The position that the gateway knows. */
    public acked = 0,
    maxUnackedMessages = 0,
    maxUnackedBytes = 0,
  ) {
    const messages = maxUnackedMessages
      ? Math.floor(maxUnackedMessages / UNACKED_SHARE)
      : ACK_MESSAGES;
    this.#maxMessages = Math.max(1, Math.min(ACK_MESSAGES, messages));
    this.#maxBytes = Math.max(1, (maxUnackedBytes || UNACKED_BYTES) / UNACKED_BYTES_SHARE);
  }

  /** Record a new position; return whether to send an ack at once. */
  moved(position: number, now: number): boolean {
    if (position - this.acked >= this.#maxMessages || this.receivedBytes >= this.#maxBytes) {
      return true;
    }
    if (this.dueAt === Infinity) this.dueAt = now + ACK_DELAY_MS;
    return false;
  }

  /** Return the seq to ack now, 0 for none; it then counts as acked. */
  take(position: number): number {
    this.dueAt = Infinity;
    if (position <= this.acked) return 0;
    this.acked = position;
    this.receivedBytes = 0;
    return position;
  }
}

/**
 * Decides when one connection sends a heartbeat, and when the gateway counts as silent.
 *
 * A gateway that was killed and is back tells its former clients so only in answer to something.
 * So a client with a request open sends its heartbeats sooner: when it has heard nothing for twice
 * the usual time of an answer, every WAITING_MS at most.
 */
export class HeartbeatPacer {
  /** Time of the next heartbeat where no request is open. */
  dueAt: number;
  #heardAt: number;
  #sentAt: number;
  #msgId = 0;
  #isUnanswered = false;
  #probeAt = Infinity;

  constructor(
    readonly interval: number,
    now: number,
  ) {
    this.dueAt = now + interval;
    this.#heardAt = this.#sentAt = now;
  }

  /** Time at which the gateway counts as silent, Infinity while every beat is answered. */
  get silentAt(): number {
    // PROTOCOL 3.8: "a heartbeat unanswered and no byte for 2 intervals".
    const silentAt = this.#isUnanswered
      ? this.#heardAt + SILENT_INTERVALS * this.interval
      : Infinity;
    return Math.min(silentAt, this.#probeAt);
  }

  /** Return the time of the next heartbeat while a request is open. */
  nextAt(askedAt: number, usualMs: number): number {
    const since = Math.max(askedAt, this.#heardAt, this.#sentAt);
    return Math.min(this.dueAt, since + Math.max(2 * usualMs, WAITING_MS));
  }

  /** Make a heartbeat due now, and a sign of life soon; what came meanwhile may not be read yet. */
  probe(now: number): void {
    this.#isUnanswered = false;
    this.dueAt = now;
    this.#probeAt = Math.min(this.#probeAt, now + PROBE_MS);
  }

  /** Record a byte from the gateway. */
  heard(now: number): void {
    this.#heardAt = now;
    this.#probeAt = Infinity;
  }

  /** Record a heartbeat sent now. */
  sent(msgId: number, now: number): void {
    // A beat that comes late, as in a hidden tab, gets its time too.
    if (!this.#isUnanswered) this.#heardAt = Math.max(this.#heardAt, now - this.interval);
    this.#sentAt = now;
    this.dueAt = now + this.interval;
    this.#isUnanswered = true;
    this.#msgId = msgId;
  }

  /** Record a HEARTBEAT_RESP. */
  answered(msgId: number): void {
    if (msgId === this.#msgId) this.#isUnanswered = false;
  }
}
