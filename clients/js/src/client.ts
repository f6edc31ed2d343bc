/** The client: one session with a gateway. */

import { Answer } from "./answer.js";
import { Connector, type ConnectorOwner } from "./connector.js";
import { platform, watchPage, type Environment } from "./environment.js";
import {
  ConfigError,
  ErrorCode,
  NotifyOverflow,
  Outcome,
  QueueFull,
  RequestFailed,
  SessionLost,
} from "./errors.js";
import type { ClientEvent, Failed, SessionReset } from "./events.js";
import type { TransportName } from "./link.js";
import { ClientLogin, type LoginParams } from "./login.js";
import { LOGIN_ACTION, StopReason } from "./messages.js";
import { NotifyBuffer, type Lost, type Notify } from "./notifies.js";
import { decodeState } from "./saved.js";
import { ClientSession } from "./session.js";
import { StateStore, type LockManager, type TextStorage } from "./storage.js";
import { LATE_MS, STOP_TIMEOUT_MS } from "./stream.js";
import { webSocketDial, type WebSocketClass } from "./websocket.js";
import { webTransportDial, type CertificateHash, type WebTransportClass } from "./webtransport.js";
import { utf8, type Texts } from "./wire.js";

/** Requests that wait for room among those in flight; above it QueueFull. */
const MAX_WAITING = 10_000;

/** Half of a surrogate pair: text that UTF-8 cannot carry. */
const BROKEN_TEXT = /\p{Surrogate}/u;

export interface ClientOptions {
  /** Who logs in. May be left out with resume, and where the token says it. */
  openid?: string;
  /** The device or program, for the gateway's operator. */
  clientId?: string;
  /**
   * Proof of the openid, if the gateway asks for one, or what returns it: that is asked before each
   * connection, and again before the token expires, so that a session outlives its first token.
   */
  token?: string | (() => string | Promise<string>);
  /** Zone to log in to. */
  zone?: string;
  /** Log in while connecting (default); without it call login(). */
  login?: boolean;
  /**
   * For the login service, or what returns them each time: the client logs in by itself whenever a
   * new session takes the place of one that is gone.
   */
  loginParams?: LoginParams;
  /** For the login service, beside the parameters. */
  loginData?: Uint8Array | string;
  /** The ways to the gateway, the preferred one first; default WebTransport, then WebSocket. */
  transports?: readonly TransportName[];
  /** Certificates that WebTransport accepts by their hashes, for development. */
  serverCertificateHashes?: CertificateHash[];
  /** Notifies that wait for the application, at most; default 1,024. */
  maxNotifies?: number;
  /** How long connect() tries, and later the longest time for a connection, ms; default 10,000. */
  connectTimeout?: number;
  /** Longest time for an answer unless the request says another, ms; default 30,000. */
  requestTimeout?: number;
  /** How long to try to get back a lost session, ms; 0 for not at all; default 600,000. */
  reconnectTimeout?: number;
  /**
   * Where to keep the session over a reload: true for sessionStorage. Notifies are acknowledged
   * when they were read then, and must be read: with 1,024 unread the gateway answers nothing more.
   */
  storage?: boolean | TextStorage;
  /** Its key there; default "gatesvr". Clients of one page need different ones. */
  storageKey?: string;
  /** What savedState() or onState gave to an earlier client. */
  resume?: string;
  /** Called with each new state, to be stored before it returns. It is a secret. */
  onState?: (state: string) => void;
  /** The WebSocket to use where the platform has none, such as that of `ws` on Node 20. */
  WebSocket?: WebSocketClass;
  /** The WebTransport to use, null for none. */
  WebTransport?: WebTransportClass | null;
  /** The lock manager to use, null for none. */
  locks?: LockManager | null;
  /** The clock, chance and page to use, for tests. */
  environment?: Partial<Environment>;
}

export interface RequestOptions {
  /** Parameters, at most 64. */
  params?: Texts;
  /** Headers, at most 32. */
  headers?: Texts;
  /** Longest time for the answer, waiting included, ms. */
  timeout?: number;
  /** Gives up waiting for the answer; the request may have been sent. */
  signal?: AbortSignal;
}

/** new, connecting, connected, reconnecting (requests wait) or closed (for good). */
export type ClientState = "new" | "connecting" | "connected" | "reconnecting" | "closed";

/** What on() tells of. */
export interface ClientEvents {
  /** The client's state has changed. */
  state: ClientState;
  /** A notify; from the first listener on they come here, and to notifies() no more. */
  notify: Notify;
  /** Messages are lost, told in their place among the notifies. */
  lost: Lost;
  /** To who listens to notify: some were dropped because nobody read. */
  overflow: NotifyOverflow;
  /** To who listens to notify: the session is lost; another follows unless isFinal. */
  sessionLost: SessionLost;
  /** A service, or another login, ended the session; the client stays closed. */
  kicked: { code: number; reason: string };
  /** The gateway asks to come back on another connection; the client does. */
  goaway: { reason: string; reconnectAfterMs: number; address: string };
}

/** What a client did. */
export interface ClientCounters {
  /** Requests sent. */
  requests: number;
  /** Answers received, of any code. */
  answers: number;
  /** Requests answered by an ERROR. */
  failures: number;
  /** Requests whose caller was told of a time-out. */
  timeouts: number;
  /** Answers and ERRORs that nobody waited for any more. */
  late: number;
  /** Requests refused here because too many waited. */
  refused: number;
  /** Notifies received. */
  notifies: number;
  /** Messages that the gateway announced as lost. */
  lost: number;
  /** Sessions that could not be resumed. */
  sessionLosses: number;
}

/** A request whose caller waits. */
interface Call {
  resolve(answer: Answer): void;
  /** Settle it by an error, and forget it. */
  reject(error: unknown): void;
  /** Number and send it. */
  send(): void;
}

/**
 * A session with a gateway.
 *
 * Any number of requests may be under way; they are sent in the order of the calls. Answers never
 * wait behind notifies: those wait in a buffer of their own until they are read.
 *
 * A lost connection is replaced by itself and nothing of the session is lost or repeated; requests
 * made meanwhile wait. Where the session cannot be resumed, those under way fail with SessionLost,
 * so does the iteration over notifies, once, and a new session takes the place of the old one.
 */
export class Client {
  readonly counters: ClientCounters = {
    requests: 0,
    answers: 0,
    failures: 0,
    timeouts: 0,
    late: 0,
    refused: 0,
    notifies: 0,
    lost: 0,
    sessionLosses: 0,
  };
  /** Last round trip of a heartbeat, ms; 0 before the first. */
  roundTripMs = 0;
  readonly #options: ClientOptions;
  readonly #environment: Environment;
  readonly #url: string;
  readonly #session: ClientSession;
  readonly #login: ClientLogin;
  readonly #notifies: NotifyBuffer;
  readonly #listeners = new Map<string, Set<(event: never) => void>>();
  readonly #pending = new Map<number, Call>();
  readonly #waiting = new Set<Call>();
  readonly #requestTimeout: number;
  readonly #store: StateStore | null;
  #unwatch: (() => void) | null = null;
  #connector: Connector | null = null;
  #state: ClientState = "new";
  #stored = "";
  #handled = 0; // the highest server seq that was taken in
  #isPumping = false;
  // Whether the application has a session: the loss of one that it has not is not told.
  #hasSession = false;
  #loss: SessionLost | null = null; // the last session's, while the next one begins
  #untold: SessionLost | null = null; // a loss that the iteration is still to tell
  #end: SessionLost | null = null;

  /**
   * @param url The gateway, `https://host:8443/gatesvr`.
   * @throws {ConfigError} The URL, or an option, is none that the client can work with.
   */
  constructor(url: string | URL, options: ClientOptions = {}) {
    this.#options = options;
    this.#url = readUrl(url);
    const { openid, clientId = "", token, zone = "", resume } = options;
    for (const [name, text] of Object.entries({ openid, clientId, zone, resume })) {
      if (text !== undefined) checkText(name, text);
    }
    const maxNotifies = checkNumber("maxNotifies", options.maxNotifies, 1024, 1);
    this.#requestTimeout = checkNumber("requestTimeout", options.requestTimeout, 30_000, 1);
    checkNumber("connectTimeout", options.connectTimeout, 10_000, 1);
    checkNumber("reconnectTimeout", options.reconnectTimeout, 600_000, 0);
    if (openid === undefined && !token && !resume) {
      throw new ConfigError("openid", "is missing, and so is a token that says it");
    }
    if (typeof token === "string") checkText("token", token);
    const authToken = typeof token === "string" ? token : "";
    this.#session = new ClientSession(openid ?? "", clientId, authToken);
    this.#environment = { ...platform(), ...options.environment };
    this.#login = new ClientLogin(
      (data, params) => {
        const all = zone ? { zone, ...params } : params;
        return this.#call(LOGIN_ACTION, data, all, {}, { isLogin: true });
      },
      options.loginData === undefined ? undefined : toBytes("loginData", options.loginData),
      options.loginParams,
      options.login ?? true,
    );
    this.#notifies = new NotifyBuffer(
      maxNotifies,
      (lost) => this.#emit("lost", lost),
      () => {
        if (this.#isStored) this.#acknowledgeRead();
      },
    );
    this.#store = openStore(options, this.#environment);
    if (resume) this.#restore(resume, true);
  }

  /** Who logs in. */
  get openid(): string {
    return this.#session.openid;
  }

  /** The session's id, empty before there is one. */
  get sessionId(): string {
    return this.#session.sessionId;
  }

  get state(): ClientState {
    return this.#state;
  }

  /** Whether the session has a connection now; without one, requests wait for the next. */
  get isConnected(): boolean {
    return this.#connector?.isConnected ?? false;
  }

  /** The way that the connection came by, null without one. */
  get transport(): TransportName | null {
    return this.#connector?.transport ?? null;
  }

  /** Connections on which the session came up, and how many of them took it up again. */
  get connects(): { total: number; resumed: number } {
    const connector = this.#connector;
    return { total: connector?.connects ?? 0, resumed: connector?.resumes ?? 0 };
  }

  /** Requests sent and not answered. */
  get inFlight(): number {
    return this.#session.pending.size;
  }

  /** Notifies received and not read yet. */
  get waitingNotifies(): number {
    return this.#notifies.length;
  }

  /** The highest server seq received. */
  get serverSeq(): number {
    return this.#session.seen;
  }

  /** Call listener with each event of a kind; return what ends that. */
  on<K extends keyof ClientEvents>(
    kind: K,
    listener: (event: ClientEvents[K]) => void,
  ): () => void {
    const listeners = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, listeners);
    listeners.add(listener);
    if (kind === "notify") void this.#pump();
    return () => listeners.delete(listener);
  }

  /**
   * Connect, begin or resume a session, and log in unless login is false.
   *
   * What fails is tried again within connectTimeout, where the gateway is busy not before it says.
   * A session to resume is tried for reconnectTimeout.
   *
   * @throws {ConnectionFailed} No gateway, or it refused the session.
   * @throws {RequestFailed} It refused the login.
   * @throws {SessionLost} The session to resume is over and the gateway wants no new one.
   */
  async connect(options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.#state !== "new") throw new Error("connect() was called before");
    const { signal } = options;
    signal?.throwIfAborted();
    this.#setState("connecting");
    const state = await this.#store?.load();
    if (state && !this.sessionId) this.#restore(state, false);
    if (this.#end !== null) {
      this.#store?.release();
      throw this.#end; // closed meanwhile
    }
    this.#session.carriesAcks = !this.#isStored;
    const given = this.#options.token;
    const connector = new Connector(this.#session, this.#owner(), this.#environment, {
      url: this.#url,
      ways: (url) => this.#ways(new URL(url)),
      connectTimeout: this.#options.connectTimeout ?? 10_000,
      reconnectTimeout: this.#options.reconnectTimeout ?? 600_000,
      login: () => this.#login.repeat(),
      token: typeof given === "function" ? async () => given() : null,
    });
    this.#connector = connector;
    this.#unwatch = watchPage(this.#environment, connector);
    const abort = () => void connector.stop(0);
    signal?.addEventListener("abort", abort);
    try {
      if (signal?.aborted) abort();
      await connector.start();
    } catch (error) {
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** End the session: STOP, and the gateway's close for at most a second. May be repeated. */
  async close(reason: StopReason = StopReason.APP_CLOSE): Promise<void> {
    if (this.#connector === null) {
      this.#finish(new SessionLost("the client is closed", { isFinal: true }));
      return;
    }
    if (this.#end === null) this.#connector.protocol.stop(reason);
    await this.#connector.stop(STOP_TIMEOUT_MS);
  }

  /**
   * Close, and leave the session to whoever resumes it in time; return the state for that.
   *
   * Everything read is acknowledged. Requests under way fail with SessionLost here.
   */
  async suspend(): Promise<string> {
    this.#notifies.settle();
    if (this.#connector !== null && this.#end === null) {
      this.#connector.flush();
      await this.#connector.stop(0);
    }
    return this.savedState();
  }

  /** Close the connection as if the network had cut it, for tests; the client resumes. */
  drop(): void {
    this.#connector?.drop();
  }

  /** Return what another client resumes the session from. It holds a secret. */
  savedState(): string {
    return this.#session.state(Math.min(this.#readPosition, this.#session.position));
  }

  /**
   * Log in, or log in again to have the zone refreshed. Where neither is given, the client's own
   * loginParams and loginData are.
   */
  async login(data?: Uint8Array | string, params?: Texts): Promise<Answer> {
    return this.#login.send(data === undefined ? undefined : toBytes("data", data), params);
  }

  /**
   * Send a request and return its answer, of whatever code.
   *
   * While there is no connection, or as many requests are in flight as the session allows, it waits.
   *
   * @param data The payload; text goes as UTF-8.
   * @throws {RequestFailed} It was answered by an ERROR, or by nothing in time (504). Its outcome is
   *   NOT_STARTED where it is certain that it was not and will not be run.
   * @throws {SessionLost} The session ended before there was an answer.
   * @throws {QueueFull} Too many requests wait already.
   * @throws {RangeError} The request is larger than the gateway takes.
   */
  async request(
    action: string,
    data: Uint8Array | string = new Uint8Array(0),
    options: RequestOptions = {},
  ): Promise<Answer> {
    const { params = {}, headers = {} } = options;
    return this.#call(action, toBytes("data", data), params, headers, options);
  }

  /**
   * Iterate over the notifies. There is one buffer, so each notify comes to one reader only.
   *
   * The iteration throws NotifyOverflow where some were dropped because nobody read, and SessionLost
   * where the session ended; unless that is final, iterate again to go on behind it.
   */
  notifies(): AsyncIterableIterator<Notify, undefined> {
    const iterator: AsyncIterableIterator<Notify, undefined> = {
      next: () => this.#notifies.get(),
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  // Sending.

  #call(
    action: string,
    data: Uint8Array,
    params: Texts,
    headers: Texts,
    { timeout, signal, isLogin = false }: RequestOptions & { isLogin?: boolean },
  ): Promise<Answer> {
    checkText("action", action);
    checkTexts("params", params);
    checkTexts("headers", headers);
    const ms = checkNumber("timeout", timeout, this.#requestTimeout, 0);
    signal?.throwIfAborted();
    if (this.#end !== null) throw this.#end.withOutcome(Outcome.NOT_STARTED);
    const connector = this.#connector;
    if (connector === null) {
      throw new SessionLost("not connected", { outcome: Outcome.NOT_STARTED });
    }
    // A login goes before whatever waits.
    const mayGo = isLogin || (this.#waiting.size === 0 && this.#hasRoom);
    if (!mayGo && this.#waiting.size >= MAX_WAITING) {
      this.counters.refused++;
      throw new QueueFull(`${MAX_WAITING} requests wait already`);
    }
    return new Promise((resolve, reject) => {
      const environment = this.#environment;
      const dueAt = environment.now() + ms;
      let seq = 0;
      const forget = () => {
        environment.clearTimer(timer);
        signal?.removeEventListener("abort", aborted);
        this.#waiting.delete(call);
        if (this.#pending.get(seq) === call) this.#pending.delete(seq);
      };
      const call: Call = {
        resolve: (answer) => {
          forget();
          resolve(answer);
        },
        reject: (error) => {
          forget();
          reject(error);
        },
        send: () => {
          try {
            const { protocol } = connector;
            seq = protocol.sendRequest(action, data, params, headers, environment.now());
            this.#pending.set(seq, call);
            this.counters.requests++;
            connector.requestFlush();
          } catch (error) {
            call.reject(error);
          }
        },
      };
      const expired = () => {
        const now = environment.now();
        if (now < dueAt) {
          timer = environment.setTimer(expired, dueAt - now); // too long for one timer
        } else if (now - dueAt > LATE_MS) {
          timer = environment.setTimer(timeUp, LATE_MS); // after a stall what has arrived goes first
        } else {
          timeUp();
        }
      };
      const timeUp = () => {
        this.counters.timeouts++;
        const outcome = seq ? Outcome.UNKNOWN : Outcome.NOT_STARTED;
        const text = seq ? "no answer in time" : "not sent in time";
        call.reject(new RequestFailed(text, ErrorCode.DEADLINE, outcome));
      };
      const aborted = () => call.reject(signal?.reason);
      let timer = environment.setTimer(expired, ms);
      signal?.addEventListener("abort", aborted);
      if (mayGo) call.send();
      else this.#waiting.add(call);
    });
  }

  get #hasRoom(): boolean {
    const session = this.#session;
    return (
      (this.#connector?.protocol.isReady ?? false) &&
      (session.isLoggedIn || !this.#login.isDue) &&
      session.pending.size < session.maxInFlight
    );
  }

  /** Send as many waiting requests as there is room for. */
  #grant(): void {
    for (const call of this.#waiting) {
      if (!this.#hasRoom) return;
      this.#waiting.delete(call);
      call.send();
    }
  }

  // What the connector tells.

  #owner(): ConnectorOwner {
    return {
      handleEvent: (event, now) => this.#handleEvent(event, now),
      connectionChanged: () => {
        const isUp = this.isConnected;
        if (isUp) this.#setState("connected");
        else if (this.#state === "connected") this.#setState("reconnecting");
      },
      sessionEnded: (error) => this.#sessionEnded(error),
      keepState: () => this.#keepState(),
    };
  }

  #handleEvent(event: ClientEvent, now: number): void {
    switch (event.kind) {
      case "answered": {
        this.counters.answers++;
        this.#acknowledge(event.seq, now);
        if (!this.#hasSession && this.#session.isLoggedIn) this.#beginSession();
        const { code, message, data, headers, clientSeq, seq } = event;
        this.#take(clientSeq)?.resolve(new Answer(code, message, data, headers, clientSeq, seq));
        this.#grant();
        break;
      }
      case "notified": {
        this.counters.notifies++;
        const { headers, data, seq } = event;
        this.#notifies.put({
          msgType: headers.msg_type ?? "",
          title: headers.title ?? "",
          content: headers.content ?? "",
          data,
          headers,
          serverSeq: seq,
        });
        this.#acknowledge(seq, now);
        break;
      }
      case "failed":
        this.#handleFailed(event, now);
        break;
      case "lost":
        this.counters.lost += event.seq - event.fromSeq + 1;
        this.#notifies.putLost({
          firstSeq: event.fromSeq,
          lastSeq: event.seq,
          reason: event.reason,
        });
        this.#acknowledge(event.seq, now);
        break;
      case "ignored":
        this.#acknowledge(event.seq, now);
        break;
      case "reset":
        this.#handleReset(event);
        break;
      case "started":
        if (event.isLoggedIn || !this.#login.isDue) this.#beginSession();
        this.#grant();
        break;
      case "heartbeat":
        this.roundTripMs = event.roundTripMs;
        break;
      case "kicked":
        this.#emit("kicked", event);
        break;
      case "goaway":
        this.#emit("goaway", event);
        break;
    }
  }

  /** The session is gone, another may follow. */
  #handleReset(event: SessionReset): void {
    const reason = event.reason;
    this.#loss = new SessionLost(`the session is lost (reason ${reason})`, {
      reason,
      sessionId: event.sessionId,
      lostFrom: this.#handled + 1,
    });
    if (this.#hasSession) {
      this.counters.sessionLosses++;
      this.#untold = this.#loss;
    }
    this.#hasSession = false;
    this.#handled = 0;
    this.#notifies.endSession();
  }

  /** The application has a session, behind word of what became of the last. */
  #beginSession(): void {
    this.#hasSession = true;
    this.#loss = null;
    if (this.#untold !== null) {
      this.#notifies.putError(this.#untold);
      this.#notifies.endSession();
      this.#untold = null;
    }
  }

  #handleFailed(event: Failed, now: number): void {
    this.counters.failures++;
    if (event.seq) this.#acknowledge(event.seq, now);
    const { code, message, outcome, retryAfterMs, detail } = event;
    this.#take(event.clientSeq)?.reject(
      code || this.#loss === null
        ? new RequestFailed(message, code, outcome, retryAfterMs, detail)
        : this.#loss.withOutcome(outcome),
    );
    this.#grant();
  }

  /** Return the call that waits for an answer, undefined where nobody waits any more. */
  #take(clientSeq: number): Call | undefined {
    const call = this.#pending.get(clientSeq);
    if (call === undefined) this.counters.late++;
    return call;
  }

  /** The session is over for good; return what connect() throws where it still runs. */
  #sessionEnded(error: SessionLost | null): SessionLost {
    const lost = this.#untold ?? this.#loss;
    const end = new SessionLost(error?.message ?? "the client is closed", {
      code: error?.code ?? 0,
      reason: lost?.reason ?? 0,
      sessionId: lost?.sessionId ?? this.sessionId,
      lostFrom: lost?.lostFrom ?? (this.sessionId ? this.#handled + 1 : 0),
      isFinal: true,
    });
    if (error !== null) this.#notifies.putError(end);
    this.#finish(end);
    // Where the session lives on without us, what is stored may be its next owner's by now.
    if (error === null || !this.sessionId) {
      try {
        this.#keepState();
      } catch (failure) {
        report(failure); // nothing more is sent that depends on it
      }
    }
    this.#store?.release();
    return end;
  }

  #finish(end: SessionLost): void {
    this.#end ??= end;
    for (const call of [...this.#pending.values()]) call.reject(end.withOutcome(Outcome.UNKNOWN));
    for (const call of [...this.#waiting]) call.reject(end.withOutcome(Outcome.NOT_STARTED));
    this.#notifies.close();
    this.#unwatch?.();
    this.#setState("closed");
  }

  // Positions and the stored state.

  /** Whether the state outlives this client: then what was read is acknowledged, not what came. */
  get #isStored(): boolean {
    return this.#options.onState !== undefined || this.#store !== null;
  }

  /** The server seq up to which the application is done with everything. */
  get #readPosition(): number {
    const first = this.#notifies.firstUnread;
    return first ? first - 1 : this.#handled;
  }

  /** Acknowledge what was taken in, or where the state is stored what was read. */
  #acknowledge(seq: number, now: number): void {
    this.#handled = seq;
    const position = this.#isStored ? this.#readPosition : seq;
    this.#connector?.protocol.acknowledge(position, now);
  }

  /** The reader is done with something: acknowledge that. */
  #acknowledgeRead(): void {
    this.#connector?.protocol.acknowledge(this.#readPosition, this.#environment.now());
    this.#connector?.requestFlush();
  }

  /** Give the state to the application or the storage, unless they have it. */
  #keepState(): void {
    if (!this.#isStored) return;
    const state = this.savedState();
    if (state !== this.#stored) {
      this.#store?.save(state);
      this.#options.onState?.(state);
      this.#stored = state;
    }
  }

  /** Take up a stored session; one of another openid only counts where it was given on purpose. */
  #restore(text: string, isGiven: boolean): void {
    const saved = decodeState(text);
    const { openid } = this.#options;
    const isOurs = saved !== null && (openid === undefined || openid === saved.openid);
    if (isOurs) {
      this.#session.restore(saved);
      this.#handled = saved.position;
      this.#hasSession = saved.sessionId !== "";
    } else if (isGiven) {
      throw new ConfigError("resume", saved === null ? "is no state" : "is of another openid");
    }
  }

  // The rest.

  #ways(url: URL) {
    const options = this.#options;
    const scope = globalThis as {
      WebSocket?: WebSocketClass;
      WebTransport?: WebTransportClass;
    };
    const { WebSocket = scope.WebSocket, WebTransport = scope.WebTransport } = options;
    const names = options.transports ?? (["webtransport", "websocket"] as const);
    return names.flatMap((name) => {
      if (name === "websocket" && WebSocket) return { name, dial: webSocketDial(url, WebSocket) };
      if (name === "webtransport" && WebTransport && url.protocol === "https:") {
        const hashes = options.serverCertificateHashes;
        return { name, dial: webTransportDial(url, WebTransport, hashes) };
      }
      return [];
    });
  }

  /** Read the notifies for those who listen. */
  async #pump(): Promise<void> {
    if (this.#isPumping) return;
    this.#isPumping = true;
    for (let isDone = false; !isDone;) {
      try {
        const next = await this.#notifies.get();
        if (next.done) isDone = true;
        else this.#emit("notify", next.value);
      } catch (error) {
        if (error instanceof SessionLost) this.#emit("sessionLost", error);
        else if (error instanceof NotifyOverflow) this.#emit("overflow", error);
        else throw error;
      }
    }
  }

  #setState(state: ClientState): void {
    if (state !== this.#state && this.#state !== "closed") {
      this.#state = state;
      this.#emit("state", state);
    }
  }

  #emit<K extends keyof ClientEvents>(kind: K, event: ClientEvents[K]): void {
    for (const listener of this.#listeners.get(kind) ?? []) {
      try {
        (listener as (event: ClientEvents[K]) => void)(event);
      } catch (error) {
        report(error);
      }
    }
  }
}

/** Tell the platform of an error of the application's own code, as of one that nobody caught. */
function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

function openStore(options: ClientOptions, environment: Environment): StateStore | null {
  const { storage, storageKey = "gatesvr" } = options;
  if (!storage) return null;
  const scope = globalThis as {
    sessionStorage?: TextStorage;
    navigator?: { locks?: LockManager };
  };
  const where = storage === true ? scope.sessionStorage : storage;
  if (where === undefined) throw new ConfigError("storage", "there is no sessionStorage here");
  const { locks = scope.navigator?.locks ?? null } = options;
  return new StateStore(where, storageKey, locks, environment);
}

function readUrl(url: string | URL): string {
  try {
    const parsed = new URL(url);
    parsed.hash = "";
    if (/^(https?|wss?):$/.test(parsed.protocol)) return parsed.href;
  } catch {
    // Told below.
  }
  throw new ConfigError("url", `${String(url).slice(0, 80)} is no URL of a gateway`);
}

function checkNumber(
  name: string,
  value: number | undefined,
  fallback: number,
  least: number,
): number {
  if (value === undefined) return fallback;
  if (typeof value !== "number" || !(value >= least)) {
    throw new ConfigError(name, `${String(value)} is no number of ${least} or more`);
  }
  return value;
}

function checkText(name: string, value: unknown): void {
  if (typeof value !== "string") throw new TypeError(`${name} must be a string`);
  if (BROKEN_TEXT.test(value)) throw new ConfigError(name, "cannot be written as UTF-8");
}

function checkTexts(name: string, texts: Texts): void {
  for (const [key, value] of Object.entries(texts)) {
    checkText(`a key of ${name}`, key);
    checkText(`${name}.${key}`, value);
  }
}

function toBytes(name: string, data: unknown): Uint8Array {
  if (typeof data === "string") {
    checkText(name, data);
    return utf8(data);
  }
  if (data instanceof Uint8Array) return data;
  throw new TypeError(`${name} must be a Uint8Array or a string`);
}
