/** A session as its client knows it, from one connection to the next. */

import { ErrorCode, LostReason, Outcome, ProtocolError, readLostReason } from "./errors.js";
import { failure, readError, type ClientEvent, type Failed, type LostMessages } from "./events.js";
import {
  BusinessResponse,
  CAPABILITIES,
  LATEST_PROTOCOL,
  MAX_CLIENT_SEQ,
  OK,
  PushType,
  STATE_NORMAL,
  Skip,
  type ServerPush,
  type StartRequest,
  type StartResponse,
} from "./messages.js";
import { USUAL_SHARE } from "./pacing.js";
import { PendingRequest } from "./pending.js";
import { encodeState, type SavedState } from "./saved.js";
import type { Texts } from "./wire.js";

/** Largest attempt the field holds; if the gateway has seen it, only a new session helps. */
const MAX_ATTEMPT = 0xffff_ffff;
/** Longest session id accepted from a gateway, characters. */
const MAX_SESSION_ID = 128;
/** Longest resume token accepted from a gateway. */
const MAX_TOKEN_BYTES = 64;
/** Largest frame before login (PROTOCOL 1.3). */
const MAX_LOGIN_BYTES = 64 << 10;

const NO_BYTES = new Uint8Array(0);

/**
 * Everything that outlives a client's connections: identity, counters, open requests.
 *
 * A ClientProtocol is one connection of the session: it sends and receives, and keeps the results
 * here. One connection uses the session at a time.
 */
export class ClientSession {
  /** Empty before the first START_RESP. */
  sessionId = "";
  /** Of that session; never logged. */
  resumeToken: Uint8Array = NO_BYTES;
  /** Tries with that token. */
  attempt = 0;
  /** Highest server seq that the application has. */
  position = 0;
  /** Highest server seq received. */
  seen = 0;
  nextClientSeq = 1;
  /** Unanswered requests by number, in the order of the numbers. */
  readonly pending = new Map<number, PendingRequest>();
  isLoggedIn = false;
  /** Whether the client has ended the session. */
  isStopped = false;
  /** Whether state() must be stored before the next bytes are sent. */
  isStateDue = false;
  /** Whether requests and heartbeats carry the ack too; off where each ack costs a store. */
  carriesAcks = true;
  /** Typical time of an answer, ms; 0 before the first. */
  usualMs = 0;
  /** When the credentials expire, ms since the epoch; 0 for never. */
  authExpiresAt = 0;
  #nextMsgId = 1;

  // Announced by the gateway.
  heartbeatInterval = 15_000;
  maxInFlight = 128;
  maxRequestBytes = 1 << 20;

  constructor(
    public openid: string,
    public clientId: string,
    /** Sent in the next START. */
    public authToken: string,
    readonly maxMessageBytes = 1 << 20,
  ) {}

  // Stored state.

  /**
   * Return the state that restore() takes after a restart. It holds a secret.
   *
   * After stop() it names no session, because there is none to resume.
   *
   * @param position What the application has, if that is less than what was acknowledged.
   */
  state(position = this.position): string {
    const { openid, clientId, sessionId, resumeToken, attempt } = this;
    const none = { sessionId: "", resumeToken: NO_BYTES, attempt: 0, position: 0 };
    const session =
      this.isStopped || !sessionId ? none : { sessionId, resumeToken, attempt, position };
    return encodeState({ openid, clientId, ...session });
  }

  /** Take up the session of a stored state; the next connection resumes it. */
  restore(saved: SavedState): void {
    Object.assign(this, saved, { clientId: this.clientId || saved.clientId, seen: saved.position });
  }

  // START and its answer.

  /** Return the START of a new session, or of the next try to resume this one. */
  startRequest(): Partial<StartRequest> {
    const start: Partial<StartRequest> = {
      openid: this.openid,
      clientId: this.clientId,
      authToken: this.authToken,
      lastAckedSeq: this.position,
      protocol: LATEST_PROTOCOL,
      capabilities: CAPABILITIES,
      maxMessageBytes: this.maxMessageBytes,
    };
    if (this.sessionId) {
      // PROTOCOL 4.3: "attempt counts the client's tries with one token, from 1."
      this.attempt = Math.min(this.attempt + 1, MAX_ATTEMPT);
      this.isStateDue = true;
      start.sessionId = this.sessionId;
      start.resumeToken = this.resumeToken;
      start.attempt = this.attempt;
    }
    return start;
  }

  /**
   * Begin or resume the session as a successful START_RESP says; add the events.
   *
   * @throws {ProtocolError} A value is out of bounds.
   */
  started(response: StartResponse, events: ClientEvent[]): void {
    const sessionId = response.sessionId || response.connectionId;
    if (
      response.maxClientSeq >= MAX_CLIENT_SEQ ||
      sessionId.length > MAX_SESSION_ID ||
      response.resumeToken.length > MAX_TOKEN_BYTES
    ) {
      // No request could be numbered, or the stored state could not be read back.
      throw new ProtocolError("a START_RESP out of bounds");
    }
    if (this.sessionId && !response.resumed) {
      this.lose(readLostReason(response.lostReason) || LostReason.UNKNOWN_SESSION, events);
    }
    this.sessionId = sessionId;
    this.resumeToken = response.resumeToken.slice();
    this.attempt = 0;
    this.authExpiresAt = response.authExpiresAtMs;
    this.heartbeatInterval = 1_000 * Math.max(1, response.heartbeatInterval);
    this.maxInFlight = response.maxInFlight || this.maxInFlight;
    this.maxRequestBytes = response.maxMessageBytes || this.maxRequestBytes;
    this.isLoggedIn = response.state === STATE_NORMAL;
    this.isStateDue = true;
    events.push({ kind: "started", response, isLoggedIn: this.isLoggedIn });
    if (response.replayFrom > this.seen + 1) {
      // This client was restored from a state older than its last ack.
      const seq = response.replayFrom - 1;
      events.push({ kind: "lost", fromSeq: this.seen + 1, seq, reason: LostReason.NONE });
      this.seen = seq;
    }
  }

  /** Apply a START_RESP that refuses the session; add the events. */
  refused(response: StartResponse, events: ClientEvent[]): void {
    const code = response.error?.code ?? 0;
    const lost = readLostReason(response.lostReason);
    if (code === ErrorCode.STALE_ATTEMPT) {
      // PROTOCOL 4.3: try again above what the gateway has seen.
      this.attempt = Math.max(this.attempt, response.attempt);
    } else if (lost && this.sessionId) {
      this.lose(lost, events);
    }
    events.push({ kind: "refused", code, message: response.error?.message ?? "" });
  }

  // Requests.

  /**
   * Number a request and keep it until it is answered; return its client seq.
   *
   * @throws {RangeError} The request exceeds the gateway's limit, which would end the session.
   */
  addRequest(action: string, data: Uint8Array, params: Texts, headers: Texts): number {
    const request = new PendingRequest(this.takeMsgId(), action, data, params, headers);
    const limit = this.isLoggedIn
      ? this.maxRequestBytes
      : Math.min(this.maxRequestBytes, MAX_LOGIN_BYTES);
    const size = request.maxSize;
    if (size > limit) {
      throw new RangeError(`a request of ${size} bytes is above the gateway's limit of ${limit}`);
    }
    const seq = this.nextClientSeq++;
    this.pending.set(seq, request);
    return seq;
  }

  /** Return the next msg_id; 0 is skipped when the 32 bits wrap. */
  takeMsgId(): number {
    const msgId = this.#nextMsgId;
    this.#nextMsgId = msgId < 0xffff_ffff ? msgId + 1 : 1;
    return msgId;
  }

  // Sequenced pushes.

  /**
   * Return the event of the next sequenced push, which is not a SKIP.
   *
   * @throws {ProtocolError} Its seq does not follow the last one.
   */
  receive(push: ServerPush, now: number): ClientEvent {
    if (push.seq !== this.seen + 1) {
      // PROTOCOL 2.3: "anything else is a gap: close and resume".
      throw new ProtocolError(`gap: ${this.seen} then ${push.seq}`);
    }
    // Decode first: a push that does not decode has not been seen.
    const event = this.#event(push, now);
    this.seen = push.seq;
    return event;
  }

  /** Return the loss that a SKIP announces, from the first message not seen. */
  skip(push: ServerPush): LostMessages {
    const skip = Skip.decode(push.payload);
    const fromSeq = this.seen + 1;
    if (skip.fromSeq > fromSeq) {
      throw new ProtocolError(`gap: ${this.seen} then a SKIP from ${skip.fromSeq}`);
    }
    this.seen = push.seq;
    return { kind: "lost", fromSeq, seq: push.seq, reason: readLostReason(skip.reason) };
  }

  #event(push: ServerPush, now: number): ClientEvent {
    const { seq, headers } = push;
    if (push.type === PushType.BUSINESS_DATA) {
      const { clientSeq } = push;
      const { code, message, data: view } = BusinessResponse.decode(push.payload);
      const data = view.slice(); // the application's own
      if (!clientSeq) return { kind: "notified", seq, data, headers };
      const request = this.pending.get(clientSeq);
      if (request === undefined) return { kind: "ignored", seq };
      this.pending.delete(clientSeq);
      if (request.isLogin && code === OK) this.isLoggedIn = true;
      const took = now - request.sentAt;
      this.usualMs += (took - this.usualMs) / (this.usualMs ? USUAL_SHARE : 1);
      return { kind: "answered", clientSeq, seq, code, message, data, headers };
    }
    if (push.type === PushType.ERROR) {
      const failed = readError(push);
      return this.pending.delete(push.clientSeq) ? failed : { kind: "ignored", seq };
    }
    // PROTOCOL 1.5: "moves the client's position and is acked, its content ignored".
    return { kind: "ignored", seq };
  }

  /** Return the failure that an unsequenced ERROR reports; it may name its request by msg_id. */
  fail(push: ServerPush): Failed {
    const failed = readError(push);
    if (!this.pending.has(push.clientSeq)) {
      failed.clientSeq = 0;
      for (const [seq, request] of this.pending) {
        if (request.msgId === push.msgId) failed.clientSeq = seq;
      }
    }
    this.pending.delete(failed.clientSeq);
    return failed;
  }

  // The end.

  /** Fail the pending requests and forget the session (PROTOCOL 4.7). */
  lose(reason: LostReason, events: ClientEvent[]): void {
    events.push({ kind: "reset", sessionId: this.sessionId, reason });
    for (const [seq, request] of this.pending) {
      const outcome = request.isSent ? Outcome.UNKNOWN : Outcome.NOT_STARTED;
      events.push(failure(seq, "session lost", outcome));
    }
    this.pending.clear();
    this.sessionId = "";
    this.resumeToken = NO_BYTES;
    this.attempt = 0;
    this.position = 0;
    this.seen = 0;
    this.nextClientSeq = 1;
    this.isLoggedIn = false;
  }

  /** Forget the session, so that the next connection starts a new one; return the events. */
  abandon(): ClientEvent[] {
    const events: ClientEvent[] = [];
    if (this.sessionId) this.lose(LostReason.NONE, events);
    return events;
  }
}
