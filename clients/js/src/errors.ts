/**
 * Every error that the client throws, and the codes in them (PROTOCOL 6).
 *
 * GatesvrError
 * ├── ConfigError       an option is wrong
 * ├── ProtocolError     the gateway broke the wire protocol
 * ├── RequestFailed     a request was answered by an ERROR, or not in time
 * ├── SessionLost       the session ended, or could not be resumed
 * ├── QueueFull         too many requests wait
 * ├── NotifyOverflow    notifies that nobody read were dropped
 * └── ConnectionFailed  no connection to the gateway
 */

/** Why a connection was closed. */
export const CloseCode = {
  NORMAL: 0,
  PROTOCOL_ERROR: 4400,
  AUTH_FAILED: 4401,
  RESUME_DENIED: 4403,
  TIMEOUT: 4408,
  SUPERSEDED: 4409,
  KICKED: 4410,
  OPENID_BUSY: 4411,
  SLOW_CONSUMER: 4413,
  VERSION_NOT_SERVED: 4426,
  RATE_LIMITED: 4429,
  INTERNAL_ERROR: 4500,
  OVERLOADED: 4503,
} as const;

/** The code of an ERROR, or of a refused START. */
export const ErrorCode = {
  BAD_REQUEST: 400,
  NOT_LOGGED_IN: 401,
  FORBIDDEN: 403,
  NO_ROUTE: 404,
  STALE_ATTEMPT: 409,
  TOO_LARGE: 413,
  RATE_LIMITED: 429,
  INTERNAL: 500,
  UNKNOWN_TYPE: 501,
  UPSTREAM_UNREACHABLE: 502,
  BUSY: 503,
  DEADLINE: 504,
  ANSWER_NOT_KEPT: 507,
} as const;

/** What is known of a failed request: a service may have run it, none did, or one ended it. */
export const Outcome = { UNKNOWN: 0, NOT_STARTED: 1, DONE: 2 } as const;
export type Outcome = (typeof Outcome)[keyof typeof Outcome];

/** Why messages, or a whole session, are lost. */
export const LostReason = {
  NONE: 0,
  EXPIRED: 1,
  OVERFLOW: 2,
  UNKNOWN_SESSION: 3,
  FAILOVER: 4,
  DENIED: 5,
  CONFLATED: 6,
  REPLACED: 7,
  KICKED: 8,
} as const;
export type LostReason = (typeof LostReason)[keyof typeof LostReason];

/** Base of all errors that the client throws on purpose. */
export class GatesvrError extends Error {
  override name = "GatesvrError";
}

/** An option is wrong. */
export class ConfigError extends GatesvrError {
  override name = "ConfigError";

  constructor(field: string, message: string) {
    super(`${field}: ${message}`);
  }
}

/** The gateway broke the wire protocol. */
export class ProtocolError extends GatesvrError {
  override name = "ProtocolError";
}

/** No connection to the gateway, or it refused the session. */
export class ConnectionFailed extends GatesvrError {
  override name = "ConnectionFailed";
  /** The close code, 0 for none. */
  readonly code: number;

  constructor(message: string, code = 0) {
    super(message);
    this.code = code;
  }
}

/** A request was answered by an ERROR, or by nothing in time (504). */
export class RequestFailed extends GatesvrError {
  override name = "RequestFailed";
  /** The wire error code, or the service's own code of a refused login. */
  readonly code: number;

  constructor(
    message: string,
    code: number,
    /** Whether a service may have run it. */
    readonly outcome: Outcome = Outcome.UNKNOWN,
    /** When trying again may help, ms; 0 if it does not. */
    readonly retryAfterMs = 0,
    /** A request id that the operator can look up. */
    readonly detail = "",
  ) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** The session ended, or could not be resumed. */
export class SessionLost extends GatesvrError {
  override name = "SessionLost";
  /** The close code or wire error code that ended it, 0 for none. */
  readonly code: number = 0;
  /** The gateway's reason, NONE if it gave none. */
  readonly reason: LostReason = LostReason.NONE;
  /** The session, empty if there was none. */
  readonly sessionId: string = "";
  /** First server seq that was never delivered, 0 without a session. */
  readonly lostFrom: number = 0;
  /** For a request that the end left unanswered. */
  readonly outcome: Outcome = Outcome.UNKNOWN;
  /** Whether the client has given up; otherwise a new session follows. */
  readonly isFinal: boolean = false;

  constructor(
    message: string,
    fields: {
      code?: number;
      reason?: LostReason;
      sessionId?: string;
      lostFrom?: number;
      outcome?: Outcome;
      isFinal?: boolean;
    } = {},
  ) {
    super(message);
    Object.assign(this, fields);
  }

  /** Return the error for one of several requests. */
  withOutcome(outcome: Outcome): SessionLost {
    return new SessionLost(this.message, { ...this, outcome });
  }
}

/** Too many requests wait; this one was not taken. */
export class QueueFull extends GatesvrError {
  override name = "QueueFull";
}

/** Notifies came faster than they were read, and these were dropped. */
export class NotifyOverflow extends GatesvrError {
  override name = "NotifyOverflow";

  constructor(
    /** Number of notifies dropped. */
    readonly count: number,
    /** Server seq of the first. */
    readonly firstSeq: number,
    /** Server seq of the last. */
    readonly lastSeq: number,
  ) {
    super(`${count} notifies were dropped, seq ${firstSeq} to ${lastSeq}: not read in time`);
  }
}

/** Return the reason that a field spells; an unknown one counts as NONE (PROTOCOL 1.5). */
export function readLostReason(value: number): LostReason {
  return value > 0 && value <= LostReason.KICKED ? (value as LostReason) : LostReason.NONE;
}

/** Return the outcome that a field spells; an unknown one counts as UNKNOWN. */
export function readOutcome(value: number): Outcome {
  return value === 1 || value === 2 ? value : Outcome.UNKNOWN;
}
