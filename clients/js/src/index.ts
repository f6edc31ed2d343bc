/** The client of a GateSvr gateway. */

export { Answer } from "./answer.js";
export {
  Client,
  type ClientCounters,
  type ClientEvents,
  type ClientOptions,
  type ClientState,
  type RequestOptions,
} from "./client.js";
export type { Environment, EventSource } from "./environment.js";
export {
  CloseCode,
  ConfigError,
  ConnectionFailed,
  ErrorCode,
  GatesvrError,
  LostReason,
  NotifyOverflow,
  Outcome,
  ProtocolError,
  QueueFull,
  RequestFailed,
  SessionLost,
} from "./errors.js";
export type { TransportName } from "./link.js";
export { StopReason } from "./messages.js";
export type { Lost, Notify } from "./notifies.js";
export type { LockManager, TextStorage } from "./storage.js";
export type { WebSocketClass, WebSocketLike } from "./websocket.js";
export type { CertificateHash, WebTransportClass, WebTransportLike } from "./webtransport.js";
export type { Texts } from "./wire.js";
