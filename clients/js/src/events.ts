/** What a connection's protocol reports, in the order in which it came. */

import { readOutcome, type LostReason, type Outcome } from "./errors.js";
import { ErrorMessage, type ServerPush, type StartResponse } from "./messages.js";
import type { Texts } from "./wire.js";

/** START_RESP: the session is up, or up again. */
export interface Started {
  kind: "started";
  response: StartResponse;
  isLoggedIn: boolean;
}

/** START_RESP with success = false; the gateway closes the connection. */
export interface StartRefused {
  kind: "refused";
  code: number;
  message: string;
}

/** The session is lost: its requests fail, and positions start again at 0. */
export interface SessionReset {
  kind: "reset";
  sessionId: string;
  reason: LostReason;
}

/** A request's answer. */
export interface Answered {
  kind: "answered";
  clientSeq: number;
  seq: number;
  code: number;
  message: string;
  data: Uint8Array;
  headers: Texts;
}

/** A request failed: the gateway sent an ERROR, or no answer can come any more. */
export interface Failed {
  kind: "failed";
  /** 0 where the ERROR names no request. */
  clientSeq: number;
  /** 0 where it has none; else acknowledge it. */
  seq: number;
  /** 0 where the session is gone. */
  code: number;
  message: string;
  detail: string;
  retryAfterMs: number;
  outcome: Outcome;
}

/** A notify. */
export interface Notified {
  kind: "notified";
  seq: number;
  data: Uint8Array;
  headers: Texts;
}

/** Messages that the gateway could not keep; reported once. */
export interface LostMessages {
  kind: "lost";
  fromSeq: number;
  /** Acknowledge it. */
  seq: number;
  reason: LostReason;
}

/** A sequenced push that means nothing to this client; acknowledge it. */
export interface Ignored {
  kind: "ignored";
  seq: number;
}

/** HEARTBEAT_RESP. */
export interface HeartbeatAnswered {
  kind: "heartbeat";
  roundTripMs: number;
}

/** GOAWAY: come back on a fresh connection. */
export interface GoAwayReceived {
  kind: "goaway";
  reason: string;
  reconnectAfterMs: number;
  /** Where to, empty for the same. */
  address: string;
}

/** AUTH_RESP: the credentials are renewed (code 0), or the old ones go on. */
export interface AuthAnswered {
  kind: "auth";
  code: number;
  message: string;
}

/** KICK: the session is over. */
export interface Kicked {
  kind: "kicked";
  code: number;
  reason: string;
}

export type ClientEvent =
  | Started
  | StartRefused
  | SessionReset
  | Answered
  | Failed
  | Notified
  | LostMessages
  | Ignored
  | HeartbeatAnswered
  | GoAwayReceived
  | AuthAnswered
  | Kicked;

/** Return what an ERROR push says of its request. */
export function readError({ payload, clientSeq, seq }: ServerPush): Failed {
  const error = ErrorMessage.decode(payload);
  const outcome = readOutcome(error.outcome);
  return { kind: "failed", clientSeq, seq, ...error, outcome };
}

/** Return the failure of a request that gets no answer from the gateway. */
export function failure(clientSeq: number, message: string, outcome: Outcome): Failed {
  return { kind: "failed", clientSeq, seq: 0, ...ErrorMessage.make({ message }), outcome };
}
