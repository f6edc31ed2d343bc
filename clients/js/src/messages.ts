/** The messages that a client writes and reads (PROTOCOL 1), and the frames around them. */

import { ProtocolError } from "./errors.js";
import {
  Message,
  WireError,
  Writer,
  bool,
  bytes,
  concat,
  int32,
  int64,
  nested,
  text,
  texts,
  uint32,
  uint64,
  type Texts,
} from "./wire.js";

/** The newest protocol number that is spoken. */
export const LATEST_PROTOCOL = 1;
/** Every capability that this version has: SKIP. */
export const CAPABILITIES = 1;
/** The action that logs a session in, in any case (PROTOCOL 3.2). */
export const LOGIN_ACTION = "hello";
/** The code of an answer that went well; of a hello, that it logs the session in. */
export const OK = 200;
/** Highest client seq (PROTOCOL 2.1). */
export const MAX_CLIENT_SEQ = Number.MAX_SAFE_INTEGER;

export const RequestType = {
  START: 1,
  STOP: 2,
  HEARTBEAT: 3,
  BUSINESS: 4,
  ACK: 5,
  AUTH: 7,
} as const;

export const PushType = {
  START_RESP: 1,
  HEARTBEAT_RESP: 2,
  BUSINESS_DATA: 3,
  ERROR: 4,
  GOAWAY: 5,
  KICK: 6,
  SKIP: 7,
  AUTH_RESP: 8,
} as const;

/** Why a client stops its session. */
export const StopReason = {
  UNKNOWN: 0,
  USER_LOGOUT: 1,
  APP_CLOSE: 2,
  SWITCH_ACCOUNT: 3,
} as const;
export type StopReason = (typeof StopReason)[keyof typeof StopReason];

/** StartResponse.state of a session that is logged in. */
export const STATE_NORMAL = 2;

export interface ClientRequest {
  msgId: number;
  seq: number;
  type: number;
  payload: Uint8Array;
  headers: Texts;
  ackSeq: number;
}

export const ClientRequest = new Message<ClientRequest>({
  msgId: uint32(1),
  seq: uint64(2),
  type: int32(3),
  payload: bytes(4),
  headers: texts(5),
  ackSeq: uint64(10),
});

export interface ServerPush {
  msgId: number;
  seq: number;
  type: number;
  payload: Uint8Array;
  headers: Texts;
  /** The request this answers. */
  clientSeq: number;
}

export const ServerPush = new Message<ServerPush>({
  msgId: uint32(1),
  seq: uint64(2),
  type: int32(3),
  payload: bytes(4),
  headers: texts(5),
  clientSeq: uint64(10),
});

export interface StartRequest {
  openid: string;
  clientId: string;
  authToken: string;
  lastAckedSeq: number;
  sessionId: string;
  resumeToken: Uint8Array;
  attempt: number;
  protocol: number;
  capabilities: number;
  maxMessageBytes: number;
}

export const StartRequest = new Message<StartRequest>({
  openid: text(1),
  clientId: text(2),
  authToken: text(3),
  lastAckedSeq: uint64(4),
  sessionId: text(10),
  resumeToken: bytes(11),
  attempt: uint32(12),
  protocol: uint32(13),
  capabilities: uint64(14),
  maxMessageBytes: uint32(15),
});

export interface ErrorMessage {
  code: number;
  message: string;
  detail: string;
  retryAfterMs: number;
  outcome: number;
}

export const ErrorMessage = new Message<ErrorMessage>({
  code: int32(1),
  message: text(2),
  detail: text(3),
  retryAfterMs: uint32(10),
  outcome: int32(11),
});

/** What the client uses of START_RESP; its other fields only inform. */
export interface StartResponse {
  success: boolean;
  error: ErrorMessage | null;
  /** Whole seconds. */
  heartbeatInterval: number;
  connectionId: string;
  sessionId: string;
  resumeToken: Uint8Array;
  resumed: boolean;
  replayFrom: number;
  lostReason: number;
  maxClientSeq: number;
  maxMessageBytes: number;
  maxInFlight: number;
  attempt: number;
  state: number;
  maxUnackedMessages: number;
  maxUnackedBytes: number;
  /** Since the epoch; 0: the credentials do not expire. */
  authExpiresAtMs: number;
}

export const StartResponse = new Message<StartResponse>({
  success: bool(1),
  error: nested(2, ErrorMessage),
  heartbeatInterval: int32(3),
  connectionId: text(4),
  sessionId: text(10),
  resumeToken: bytes(11),
  resumed: bool(12),
  replayFrom: uint64(13),
  lostReason: int32(17),
  maxClientSeq: uint64(18),
  maxMessageBytes: uint32(20),
  maxInFlight: uint32(21),
  attempt: uint32(22),
  state: int32(25),
  maxUnackedMessages: uint32(27),
  maxUnackedBytes: uint32(28),
  authExpiresAtMs: int64(29),
});

export const AuthRequest = new Message<{ authToken: string }>({ authToken: text(1) });

export interface AuthResponse {
  success: boolean;
  error: ErrorMessage | null;
  expiresAtMs: number;
}

export const AuthResponse = new Message<AuthResponse>({
  success: bool(1),
  error: nested(2, ErrorMessage),
  expiresAtMs: int64(3),
});

export const StopRequest = new Message<{ reason: number }>({ reason: int32(1) });

export const HeartbeatRequest = new Message<{ clientMs: number }>({ clientMs: int64(1) });

export const HeartbeatResponse = new Message<{ clientMs: number; serverMs: number }>({
  clientMs: int64(1),
  serverMs: int64(2),
});

export interface BusinessRequest {
  action: string;
  params: Texts;
  data: Uint8Array;
}

export const BusinessRequest = new Message<BusinessRequest>({
  action: text(1),
  params: texts(2),
  data: bytes(3),
});

export interface BusinessResponse {
  code: number;
  message: string;
  data: Uint8Array;
}

export const BusinessResponse = new Message<BusinessResponse>({
  code: int32(1),
  message: text(2),
  data: bytes(3),
});

export const ClientAck = new Message<{ ackedSeq: number }>({ ackedSeq: uint64(1) });

export const Skip = new Message<{ fromSeq: number; messages: number; reason: number }>({
  fromSeq: uint64(1),
  messages: uint32(2),
  reason: int32(3),
});

export const GoAway = new Message<{ reason: string; reconnectAfterMs: number; address: string }>({
  reason: text(1),
  reconnectAfterMs: uint32(2),
  address: text(3),
});

export const Kick = new Message<{ code: number; reason: string }>({
  code: uint32(1),
  reason: text(2),
});

/** Return the frame of a request. */
export function requestFrame(request: Partial<ClientRequest>): Uint8Array {
  const writer = new Writer();
  writer.skip(4);
  ClientRequest.write(writer, request);
  return writer.finishFrame();
}

/** Cuts a stream of bytes into pushes. */
export class PushDecoder {
  #rest = new Uint8Array(0);

  constructor(readonly maxMessageBytes: number) {}

  /**
   * Hand each push that data completes to take(), with the size of its frame.
   *
   * @throws {ProtocolError} A frame is empty or too large, or no push; or take() threw it.
   */
  feed(data: Uint8Array, take: (push: ServerPush, size: number) => void): void {
    if (this.#rest.length > 0) {
      data = concat([this.#rest, data]);
    }
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    let at = 0;
    while (data.length - at >= 4) {
      const size = view.getUint32(at);
      if (size === 0 || size > this.maxMessageBytes) {
        throw new ProtocolError(`a frame of ${size} bytes`);
      }
      const end = at + 4 + size;
      if (end > data.length) break;
      take(decode(data.subarray(at + 4, end)), size);
      at = end;
    }
    this.#rest = data.slice(at);
  }
}

function decode(frame: Uint8Array): ServerPush {
  try {
    return ServerPush.decode(frame);
  } catch (error) {
    throw error instanceof WireError ? new ProtocolError(error.message) : error;
  }
}
