/**
 * The client's side of one connection, without I/O.
 *
 * A ClientSession outlives its connections; each of them is one ClientProtocol. Before START_RESP
 * requests wait in the session. Then isLive is set and they are sent. After leave() new requests
 * wait for the next connection; close this one when isLeft is set. After an error nothing more is
 * decoded. isSilent tells the caller to give the connection up. Each time before takeFrames(), the
 * state is stored where session.isStateDue.
 */

import { CloseCode, LostReason, Outcome, ProtocolError } from "./errors.js";
import { failure, type ClientEvent } from "./events.js";
import {
  AuthRequest,
  AuthResponse,
  ClientAck,
  GoAway,
  HeartbeatRequest,
  HeartbeatResponse,
  Kick,
  PushDecoder,
  PushType,
  RequestType,
  StartRequest,
  StartResponse,
  StopReason,
  StopRequest,
  requestFrame,
  type ServerPush,
} from "./messages.js";
import { AckPacer, HeartbeatPacer } from "./pacing.js";
import type { PendingRequest } from "./pending.js";
import type { ClientSession } from "./session.js";
import { WireError, type Texts } from "./wire.js";

/** Longest wait for START_RESP (PROTOCOL 3.8). */
const START_TIMEOUT_MS = 10_000;
/** Longest wait for answers before leaving a connection on GOAWAY: a request's deadline (3.7). */
export const LEAVE_TIMEOUT_MS = 30_000;

/** Close codes that end the session, and why; the other codes leave it alone. */
const ENDS = new Map<number, LostReason>([
  [CloseCode.PROTOCOL_ERROR, LostReason.UNKNOWN_SESSION],
  [CloseCode.AUTH_FAILED, LostReason.DENIED],
  [CloseCode.RESUME_DENIED, LostReason.DENIED],
  [CloseCode.KICKED, LostReason.KICKED],
  [CloseCode.OPENID_BUSY, LostReason.DENIED],
]);

export class ClientProtocol {
  /** Whether START has been answered with success. */
  isLive = false;
  /** Whether the gateway has been silent for too long; give the connection up. */
  isSilent = false;
  /** Whether leave() was called: new requests wait for the next connection. */
  isLeaving = false;
  /** What the gateway did wrong on this connection. */
  error: ProtocolError | null = null;
  readonly #decoder: PushDecoder;
  #frames: Uint8Array[] = [];
  #leaveAt = Infinity;
  #stopReason: StopReason = StopReason.UNKNOWN;
  #hasStarted = false;
  #startDeadline = Infinity;
  #acks: AckPacer;
  #heartbeats: HeartbeatPacer | null = null;

  constructor(readonly session: ClientSession) {
    this.#decoder = new PushDecoder(session.maxMessageBytes);
    this.#acks = new AckPacer(session.position);
  }

  // Calls.

  /** Begin: queue START. Called once, when the connection is up. */
  connect(now: number): void {
    const session = this.session;
    session.isStopped = false;
    this.#acks = new AckPacer(session.position);
    this.#hasStarted = true;
    this.#startDeadline = now + START_TIMEOUT_MS;
    this.#queue(RequestType.START, StartRequest.encode(session.startRequest()));
  }

  /**
   * Send a request, or keep it until the session is started; return its client seq.
   *
   * @throws {RangeError} The request exceeds the gateway's limit, which would end the session.
   */
  sendRequest(
    action: string,
    data: Uint8Array,
    params: Texts,
    headers: Texts,
    now: number,
  ): number {
    const session = this.session;
    const seq = session.addRequest(action, data, params, headers);
    const request = session.pending.get(seq);
    if (this.isReady && request !== undefined) this.#send(seq, request, now);
    return seq;
  }

  /** Whether a request would be sent at once. */
  get isReady(): boolean {
    return this.isLive && !this.isLeaving;
  }

  /** Record that the application has everything up to seq; an older seq does nothing. */
  acknowledge(seq: number, now: number): void {
    const session = this.session;
    if (seq <= session.position) return;
    session.position = seq;
    if (this.isLive && this.#acks.moved(seq, now)) this.sendAck();
  }

  /** End the session: queue STOP. If START is unanswered, STOP waits for the answer. */
  stop(reason: StopReason): void {
    this.session.isStopped = true;
    this.session.isStateDue = true;
    this.#stopReason = reason;
    if (this.isLive) this.#sendStop();
  }

  /** Queue AUTH with a new token; AuthAnswered follows (PROTOCOL 3.10). */
  renew(token: string): void {
    this.session.authToken = token;
    this.#queue(RequestType.AUTH, AuthRequest.encode({ authToken: token }));
  }

  /** Ask for a sign of life now: the page was asleep, or the network has changed. */
  probe(now: number): void {
    this.#heartbeats?.probe(now);
  }

  /**
   * Stop sending requests here, to resume on another connection as GOAWAY asks.
   *
   * @param within Longest wait for the answers to what was sent, ms.
   */
  leave(now: number, within: number): void {
    this.isLeaving = true;
    this.#leaveAt = now + within;
  }

  /** Whether to close the connection that was left; never before START_RESP. */
  isLeft(now: number): boolean {
    if (!this.isLeaving || !this.isLive) return false;
    if (now >= this.#leaveAt) return true;
    for (const request of this.session.pending.values()) if (request.isSent) return false;
    return true;
  }

  /** Return the frames to write now; store the state before. */
  takeFrames(): Uint8Array[] {
    this.session.isStateDue = false;
    const frames = this.#frames;
    if (frames.length > 0) this.#frames = [];
    return frames;
  }

  /**
   * End the connection with its close code; return the events for the session.
   *
   * Codes that end the session or deny its resume fail the pending requests (PROTOCOL 6).
   */
  closed(code: number): ClientEvent[] {
    this.isLive = false;
    const events: ClientEvent[] = [];
    const reason = ENDS.get(code);
    if (reason !== undefined && this.session.sessionId) this.session.lose(reason, events);
    return events;
  }

  // Time.

  /** Return the time at which handleTimer() is due, Infinity for never. */
  timer(): number {
    let at = Math.min(this.#acks.dueAt, this.#startDeadline);
    if (this.isLive) at = Math.min(at, this.#leaveAt);
    const heartbeats = this.#heartbeats;
    if (heartbeats === null) return at;
    return Math.min(at, this.#heartbeatAt(heartbeats), heartbeats.silentAt);
  }

  /** Send a due ack or heartbeat, or set isSilent. May be called early. */
  handleTimer(now: number): void {
    if (now >= this.#acks.dueAt) this.sendAck();
    if (now >= this.#startDeadline) {
      this.#startDeadline = Infinity;
      this.isSilent = true;
    }
    const heartbeats = this.#heartbeats;
    if (heartbeats === null) return;
    if (now >= heartbeats.silentAt) {
      this.#heartbeats = null;
      this.isSilent = true;
    } else if (now >= this.#heartbeatAt(heartbeats)) {
      const payload = HeartbeatRequest.encode({ clientMs: Math.floor(now) });
      const msgId = this.#queue(RequestType.HEARTBEAT, payload, this.#ackToCarry());
      heartbeats.sent(msgId, now);
    }
  }

  #heartbeatAt(heartbeats: HeartbeatPacer): number {
    for (const oldest of this.session.pending.values()) {
      return oldest.isSent
        ? heartbeats.nextAt(oldest.sentAt, this.session.usualMs)
        : heartbeats.dueAt;
    }
    return heartbeats.dueAt;
  }

  // Pushes in.

  /** Take stream bytes in; return their events, in order. Look at error after handling them. */
  receive(data: Uint8Array, now: number): ClientEvent[] {
    const events: ClientEvent[] = [];
    if (this.error !== null) return events;
    this.#heartbeats?.heard(now);
    try {
      this.#decoder.feed(data, (push, size) => {
        if (push.seq) this.#handleSequenced(push, size, events, now);
        else this.#handleUnsequenced(push, events, now);
      });
    } catch (error) {
      if (error instanceof ProtocolError) this.error = error;
      else if (error instanceof WireError) this.error = new ProtocolError(error.message);
      else throw error;
    }
    return events;
  }

  #handleSequenced(push: ServerPush, size: number, events: ClientEvent[], now: number): void {
    const session = this.session;
    if (!this.isLive) throw new ProtocolError("a sequenced push before START_RESP");
    if (push.seq <= session.seen) return; // received before
    if (push.type === PushType.SKIP) {
      events.push(session.skip(push));
    } else {
      events.push(session.receive(push, now));
      this.#acks.receivedBytes += size;
    }
  }

  #handleUnsequenced(push: ServerPush, events: ClientEvent[], now: number): void {
    switch (push.type) {
      case PushType.START_RESP:
        this.#handleStartResponse(StartResponse.decode(push.payload), events, now);
        break;
      case PushType.HEARTBEAT_RESP: {
        const { clientMs } = HeartbeatResponse.decode(push.payload);
        this.#heartbeats?.answered(push.msgId);
        events.push({ kind: "heartbeat", roundTripMs: Math.max(0, now - clientMs) });
        break;
      }
      case PushType.ERROR:
        events.push(this.session.fail(push));
        break;
      case PushType.GOAWAY:
        events.push({ kind: "goaway", ...GoAway.decode(push.payload) });
        break;
      case PushType.KICK:
        events.push({ kind: "kicked", ...Kick.decode(push.payload) });
        break;
      case PushType.AUTH_RESP: {
        const { success, error, expiresAtMs } = AuthResponse.decode(push.payload);
        if (success) this.session.authExpiresAt = expiresAtMs;
        const code = success ? 0 : error?.code || 401;
        events.push({ kind: "auth", code, message: error?.message ?? "" });
        break;
      }
    }
  }

  // START_RESP.

  #handleStartResponse(response: StartResponse, events: ClientEvent[], now: number): void {
    if (this.isLive || !this.#hasStarted) throw new ProtocolError("a START_RESP without a START");
    this.#startDeadline = Infinity;
    const session = this.session;
    if (!response.success) {
      session.refused(response, events);
      return;
    }
    session.started(response, events);
    this.isLive = true;
    // The gateway knows the position in START; the application may be further by now.
    const acked = response.resumed ? this.#acks.acked : 0;
    this.#acks = new AckPacer(acked, response.maxUnackedMessages, response.maxUnackedBytes);
    this.#heartbeats = new HeartbeatPacer(session.heartbeatInterval, now);
    this.#sendAgain(response.maxClientSeq, events, now);
    if (session.isStopped) this.#sendStop();
    if (session.position > acked && this.#acks.moved(session.position, now)) this.sendAck();
  }

  /** Send what the gateway has not accepted, and continue its numbering (PROTOCOL 4.6). */
  #sendAgain(maxClientSeq: number, events: ClientEvent[], now: number): void {
    let following = maxClientSeq + 1;
    const { pending } = this.session;
    for (const [seq, request] of pending) {
      if (seq <= maxClientSeq && request.isSent) continue;
      if (seq === following) {
        following++;
        this.#send(seq, request, now);
      } else {
        // An earlier number is no longer held, so the gateway would accept nothing after it.
        // Or a restored client, whose counter starts too low, reused a number.
        pending.delete(seq);
        events.push(failure(seq, "its number was skipped", Outcome.NOT_STARTED));
      }
    }
    this.session.nextClientSeq = following;
  }

  // Frames out.

  #queue(type: number, payload: Uint8Array, ackSeq = 0): number {
    const msgId = this.session.takeMsgId();
    this.#frames.push(requestFrame({ msgId, type, payload, ackSeq }));
    return msgId;
  }

  #send(seq: number, request: PendingRequest, now: number): void {
    request.sentAt = now;
    this.#frames.push(request.frame(seq, this.#ackToCarry()));
  }

  /** Return the position to ack with a request, 0 if the gateway knows it. */
  #ackToCarry(): number {
    return this.session.carriesAcks ? this.#takeAck() : 0;
  }

  /** Queue an ack of the position, unless the gateway knows it. */
  sendAck(): void {
    const ackedSeq = this.isLive ? this.#takeAck() : 0;
    if (ackedSeq) {
      const payload = ClientAck.encode({ ackedSeq });
      this.#frames.push(requestFrame({ type: RequestType.ACK, payload }));
    }
  }

  #takeAck(): number {
    const seq = this.#acks.take(this.session.position);
    if (seq) this.session.isStateDue = true;
    return seq;
  }

  #sendStop(): void {
    // The gateway reports unacknowledged messages to its services as undelivered.
    this.sendAck();
    this.#queue(RequestType.STOP, StopRequest.encode({ reason: this.#stopReason }));
  }
}
