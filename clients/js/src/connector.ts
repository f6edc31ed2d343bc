/** Keeps a session on a connection: connects, starts, resumes, and says when it is over. */

import { Deferred } from "./deferred.js";
import type { Environment, PageListener } from "./environment.js";
import {
  CloseCode,
  ConnectionFailed,
  ErrorCode,
  GatesvrError,
  Outcome,
  RequestFailed,
  SessionLost,
} from "./errors.js";
import type {
  AuthAnswered,
  ClientEvent,
  GoAwayReceived,
  Kicked,
  StartRefused,
  Started,
} from "./events.js";
import type { Dial, Disconnect, Link, TransportName } from "./link.js";
import { LoginNotMade } from "./login.js";
import { ClientProtocol, LEAVE_TIMEOUT_MS } from "./protocol.js";
import { openFirst } from "./race.js";
import {
  Backoff,
  MAX_PAUSE_MS,
  MAX_RECONNECT_HINT_MS,
  MAX_RETRY_HINT_MS,
  describe,
  verdictOf,
  type Verdict,
} from "./reconnect.js";
import type { ClientSession } from "./session.js";
import { STOP_TIMEOUT_MS, Stream, type StreamOwner } from "./stream.js";

/**
 * How long a connection holds before the pauses between tries begin again at the shortest: to a
 * gateway that falls over as soon as its clients are back they come ever more slowly.
 */
const STEADY_MS = 10_000;
/** A connection that lasted for so long is left without a pause where GOAWAY asks for it. */
const CALM_MS = 1_000;
/** Credentials are renewed when this much of their time has passed. */
const RENEWAL_SHARE = 0.8;
/** Shortest time between two renewals. */
const MIN_RENEWAL_MS = 1_000;
/** Longest pause between the tries of the first connect, beside what the gateway asks for. */
const MAX_FIRST_PAUSE_MS = 1_000;

/** A connection, and the way that it came by. */
interface Opened {
  link: Link;
  name: TransportName | null;
}

/** What a connector tells the client that it works for. */
export interface ConnectorOwner {
  /** Take in what the gateway said. */
  handleEvent(event: ClientEvent, now: number): void;
  /** The session is up on a new connection, or waits for the next one. */
  connectionChanged(): void;
  /** The session is over for good, by stop() where error is null; return it in full. */
  sessionEnded(error: SessionLost | null): SessionLost;
  /** Store the session's state: what is written next depends on it. */
  keepState(): void;
}

export interface ConnectorOptions {
  url: string;
  /** The ways to a gateway, the preferred one first. */
  ways: (url: string) => { name: TransportName; dial: Dial }[];
  /** How long to try to connect at first, and the longest time for a connection later, ms. */
  connectTimeout: number;
  /** How long to try to get the session back, ms; 0 for not at all. */
  reconnectTimeout: number;
  /** Called behind each START whose session is not logged in; may throw LoginNotMade. */
  login: () => Promise<void>;
  /** Returns a token for each connection, and a new one before that expires. */
  token: (() => Promise<string>) | null;
}

/**
 * The one task that owns a session's connections, one after the other.
 *
 * A gateway whose GOAWAY asks its clients back at once keeps their sessions and serves them until they
 * have moved: the connection is closed when the next one is up, so that nobody waits for a handshake.
 * Behind any other GOAWAY it is closed once its answers are here, and then the next one is opened.
 */
export class Connector implements StreamOwner, PageListener {
  /** Connections on which the session came up. */
  connects = 0;
  /** Of these, the ones that took the session up again. */
  resumes = 0;
  /** The newest connection's; between connections it keeps requests for the next. */
  protocol: ClientProtocol;
  #named: string | null = null; // where a GOAWAY has sent the client, until a try there fails
  #isSent = false; // and it is on its way
  #ahead: Promise<Opened | null> | null = null; // opened while the one to be left serves
  #stream: Stream | null = null;
  #started = new Deferred<Started>();
  #ended = new Deferred<Disconnect>();
  #preferred: TransportName | null = null; // won the last race
  #renewed: Deferred<AuthAnswered> | null = null;
  #refusal: StartRefused | null = null;
  #kick: Kicked | null = null;
  #how: Disconnect | null = null;
  #backoff = new Backoff();
  #goawayDelay = 0;
  #wasResumed = false;
  #wasStarted = false;
  #upAt = 0;
  #isStopping = false;
  #isOffline: boolean;
  #wake: (() => void) | null = null; // ends the pause between two tries
  readonly #stopped = new AbortController();
  readonly #ready = new Deferred<void>();
  #task: Promise<void> | null = null;

  constructor(
    readonly session: ClientSession,
    readonly owner: ConnectorOwner,
    readonly environment: Environment,
    readonly options: ConnectorOptions,
  ) {
    this.protocol = new ClientProtocol(session);
    this.#isOffline = environment.window?.navigator?.onLine === false;
  }

  /** Whether the session has a connection with an answered START. */
  get isConnected(): boolean {
    return this.#stream !== null && this.#started.isGood;
  }

  /** The way that the session's connection came by, null without one. */
  get transport(): TransportName | null {
    return this.#stream?.link.transport ?? null;
  }

  /**
   * Connect, START and log in for the first time.
   *
   * What fails is tried again within connectTimeout unless the gateway has said no. A session that
   * was saved is tried for as long as one whose connection is lost.
   */
  async start(): Promise<void> {
    this.#task = this.#run();
    await this.#ready.promise;
  }

  /**
   * Close, once the gateway has or time is up.
   *
   * @param waitMs Longest wait for the gateway's close behind STOP; 0 where there was none.
   */
  async stop(waitMs: number): Promise<void> {
    this.#isStopping = true;
    if (this.#stream !== null && waitMs > 0) {
      this.#stream.flush();
      await Promise.race([this.#ended.promise, this.#sleep(waitMs)]);
    }
    this.#stopped.abort();
    this.#stream?.close(CloseCode.NORMAL, "");
    await this.#task;
  }

  /** Send what the protocol has queued at the end of this turn. */
  requestFlush(): void {
    this.#stream?.requestFlush();
  }

  /** Send what the protocol has queued, now. */
  flush(): void {
    this.#stream?.flush();
  }

  /** Close the connection as if the network had cut it; the next one resumes the session. */
  drop(): void {
    this.#stream?.close(CloseCode.NORMAL, "dropped");
  }

  // PageListener.

  online(): void {
    this.#isOffline = false;
    this.#preferred = null; // another network may let through what the last one did not
    this.#backoff.reset();
    this.shown();
  }

  offline(): void {
    this.#isOffline = true;
    this.#stream?.close(CloseCode.NORMAL, "away");
  }

  shown(): void {
    if (this.#stream !== null) {
      const now = this.environment.now();
      this.protocol.probe(now);
      this.#stream.handleTimer(now);
    }
    this.#wake?.();
  }

  hidden(): void {
    this.protocol.sendAck();
    this.#stream?.flush();
  }

  // The task.

  async #run(): Promise<void> {
    let error: SessionLost;
    let failure: unknown = null;
    try {
      error = await this.#keepSession();
    } catch (thrown) {
      failure = thrown instanceof LoginNotMade ? thrown.error : thrown;
      const code = thrown instanceof GatesvrError && "code" in thrown ? Number(thrown.code) : 0;
      error = new SessionLost(thrown instanceof Error ? thrown.message : String(thrown), { code });
    }
    void this.#ahead?.then((opened) => opened?.link.close(CloseCode.NORMAL, ""));
    const end = this.owner.sessionEnded(this.#isStopping ? null : error);
    this.#ready.reject(failure ?? end);
  }

  /** Go from connection to connection until the session is over; return why it is. */
  async #keepSession(): Promise<SessionLost> {
    const { environment, options } = this;
    const isSaved = this.session.sessionId !== "";
    let patience = isSaved ? options.reconnectTimeout : options.connectTimeout;
    this.#backoff = new Backoff(isSaved ? MAX_PAUSE_MS : MAX_FIRST_PAUSE_MS);
    let lostAt = environment.now();
    let earlier: Error | null = null;
    for (;;) {
      const { connects } = this;
      const isNew = connects === 0 && !isSaved;
      const left = lostAt + patience - environment.now();
      let failure: ConnectionFailed | RequestFailed | SessionLost | null = null;
      let how: Disconnect;
      let verdict: Verdict;
      // The process stood still in the pause until time was up.
      if (isNew && earlier !== null && left <= 0) throw earlier;
      try {
        how = await this.#serve(Math.min(options.connectTimeout, isNew ? left : Infinity));
        verdict = verdictOf(how, this.#wasStarted);
      } catch (error) {
        if (this.#isStopping) return new SessionLost("closed");
        if (
          !(error instanceof ConnectionFailed) &&
          !(error instanceof RequestFailed) &&
          !(error instanceof SessionLost)
        ) {
          throw error;
        }
        how = this.#how ?? { kind: "handshake", code: 0, reason: error.message };
        verdict = verdictOf(how, this.#wasStarted);
        if (!this.#ready.isDone) {
          failure = error;
          verdict = firstVerdict(error) ?? verdict;
        } else if (!(error instanceof ConnectionFailed)) {
          throw error;
        }
        this.#named = null;
        this.#isSent = false;
      }
      const now = environment.now();
      if (this.connects !== connects) {
        lostAt = now;
        patience = options.reconnectTimeout;
        // What ended a resumed connection without a word of the gateway's was the network.
        if (now - this.#upAt >= STEADY_MS || (this.#wasResumed && how.kind !== "peer")) {
          this.#backoff.reset();
        }
        if (connects === 0) this.#backoff = new Backoff();
      }
      if (this.#isStopping) return new SessionLost("closed");
      let delay = 0;
      let jitter = 0;
      if (this.#ahead === null) {
        delay = Math.max(this.#isSent ? 0 : verdict.delayMs, this.#goawayDelay);
        jitter = this.#backoff.next(environment.random(), delay);
      }
      this.#isSent = false;
      this.#goawayDelay = 0;
      const isTooLate = now + delay + jitter >= lostAt + patience;
      if (verdict.action === "stop" || isTooLate) {
        // A saved session that is still there is none the worse: it may be tried again.
        if (
          failure !== null &&
          (isNew || this.session.sessionId || failure instanceof RequestFailed)
        ) {
          // A try that was cut short says less than the one before it.
          throw earlier === null || now < lostAt + patience ? failure : earlier;
        }
        const text = describe(how, this.#kick?.reason);
        return new SessionLost(`the session is over: ${text}`, { code: how.code });
      }
      earlier = failure;
      if (isNew && failure !== null) {
        // Nobody has seen it. As a resume that fails it would be refused where the openid has
        // logged in elsewhere, which a first START is not (PROTOCOL 3.3).
        this.handleEvents(this.session.abandon(), now);
      }
      this.owner.connectionChanged();
      await this.#pause(delay, jitter);
      if (this.#isStopping) return new SessionLost("closed");
    }
  }

  /** Connect, START, log in, and stay until the connection has ended; return how it did. */
  async #serve(timeoutMs: number): Promise<Disconnect> {
    const { environment, options, session } = this;
    this.#refusal = this.#kick = this.#how = null;
    this.#wasStarted = this.#wasResumed = false;
    const ahead = await this.#ahead;
    this.#ahead = null;
    const { link, name } = ahead ?? (await this.#open(timeoutMs));
    const started = (this.#started = new Deferred());
    const ended = (this.#ended = new Deferred());
    this.#preferred = name;
    this.protocol = new ClientProtocol(session);
    const stream = (this.#stream = new Stream(this, link, this.protocol, environment));
    try {
      stream.start();
      const event = await started.promise;
      if (options.token !== null) void this.#keepCredentials(options.token, stream);
      if (!event.isLoggedIn) await this.#logIn(ended);
      this.connects++;
      this.#upAt = environment.now();
      this.#wasResumed = event.response.resumed;
      if (this.#wasResumed) this.resumes++;
      this.#ready.resolve();
      if (this.#stream === stream) this.owner.connectionChanged();
      return await ended.promise;
    } finally {
      stream.close(CloseCode.NORMAL, "");
    }
  }

  /** Return a new connection, whichever way is up first. */
  async #open(timeoutMs: number): Promise<Opened> {
    const { environment, options, session } = this;
    if (options.token !== null) {
      session.authToken = await this.#makeToken(options.token, timeoutMs);
    }
    // What won the last time goes first; on this network the others lose time.
    const rank = (way: { name: TransportName }) => Number(way.name !== this.#preferred);
    const ways = options.ways(this.#named ?? options.url).sort((a, b) => rank(a) - rank(b));
    const [link, index] = await openFirst(
      ways.map((way) => way.dial),
      environment,
      timeoutMs,
      this.#stopped.signal,
    );
    return { link, name: ways[index]?.name ?? null };
  }

  /**
   * Open the next connection while the session's own serves, again and again, and then leave that.
   *
   * Returns null where that has ended before.
   */
  async #openAhead(): Promise<Opened | null> {
    const { environment } = this;
    const stream = this.#stream;
    const backoff = new Backoff();
    const next = () => backoff.next(environment.random(), 0);
    // Who is sent on and on goes ever more slowly; meanwhile the session is served.
    let pause = environment.now() - this.#upAt >= CALM_MS ? 0 : next();
    while (this.#stream === stream && !this.#isStopping) {
      await this.#sleep(pause);
      try {
        const opened = await this.#open(this.options.connectTimeout);
        if (this.#isStopping) {
          opened.link.close(CloseCode.NORMAL, "");
          return null;
        }
        if (this.#stream === stream) {
          const now = environment.now();
          this.protocol.leave(now, 0);
          stream?.handleTimer(now);
        }
        return opened;
      } catch {
        pause = next();
      }
    }
    return null;
  }

  /** Return what the application's token returns, in time. */
  async #makeToken(token: () => Promise<string>, timeoutMs: number): Promise<string> {
    let stopWaiting: (() => void) | undefined;
    const timeUp = this.#sleep(timeoutMs, (wake) => (stopWaiting = wake));
    try {
      const made = await Promise.race([token(), timeUp]);
      if (made !== undefined) return made;
    } catch (error) {
      // At first that is for the application to know; later it may just be without a network too.
      if (!this.#ready.isDone) throw error;
      throw new ConnectionFailed(`no token: ${String(error)}`);
    } finally {
      stopWaiting?.();
    }
    throw new ConnectionFailed("no token in time");
  }

  /**
   * Renew the session's credentials before they expire, for as long as it is connected.
   *
   * A renewal that fails is tried again while the old credentials last; then the gateway ends the
   * session.
   */
  async #keepCredentials(token: () => Promise<string>, stream: Stream): Promise<void> {
    const { environment, session } = this;
    while (session.authExpiresAt) {
      const left = session.authExpiresAt - environment.date();
      const dueAt = environment.now() + Math.max(MIN_RENEWAL_MS, left * RENEWAL_SHARE);
      while (environment.now() < dueAt) {
        await this.#sleep(dueAt - environment.now());
        if (this.#stream !== stream) return;
      }
      let fresh: string;
      try {
        fresh = await token();
      } catch {
        continue; // the application's own error; the old token is good for a while
      }
      if (this.#stream !== stream) return;
      const renewed = (this.#renewed = new Deferred());
      stream.protocol.renew(fresh);
      stream.requestFlush();
      await renewed.promise;
    }
  }

  /** Log in, for as long as the connection lasts. */
  async #logIn(ended: Deferred<Disconnect>): Promise<void> {
    const login = this.options.login();
    login.catch(() => undefined);
    const atEnd = ended.promise.then((how) => {
      const text = `the connection ended during the login: ${describe(how)}`;
      throw new ConnectionFailed(text, how.code);
    });
    atEnd.catch(() => undefined);
    try {
      await Promise.race([login, atEnd]);
    } catch (error) {
      const isAnswer = error instanceof RequestFailed || error instanceof SessionLost;
      if (!isAnswer || !this.#ready.isDone) throw error;
      if (error.code < ErrorCode.INTERNAL) {
        // Behind an ERROR the gateway's close says what to do: 4411 is for now only.
        await Promise.race([ended.promise, this.#sleep(STOP_TIMEOUT_MS)]);
        if (!ended.isDone) throw error;
      }
      // Or the login service is away: that is no reason to give up a session.
      throw new ConnectionFailed(error.message);
    }
  }

  // StreamOwner: what the current connection calls.

  handleEvents(events: ClientEvent[], now: number): void {
    for (const event of events) {
      if (event.kind === "started") {
        this.#started.resolve(event);
      } else if (event.kind === "refused") {
        this.#refusal = event;
      } else if (event.kind === "kicked") {
        this.#kick = event;
      } else if (event.kind === "goaway") {
        this.#handleGoaway(event, now);
      } else if (event.kind === "auth") {
        this.#renewed?.resolve(event);
      }
      this.owner.handleEvent(event, now);
    }
  }

  /** Leave the connection, unless the client is to have only this one. */
  #handleGoaway(event: GoAwayReceived, now: number): void {
    if (!this.options.reconnectTimeout || this.#isStopping) return;
    const delay = Math.min(event.reconnectAfterMs, MAX_RECONNECT_HINT_MS);
    const named = event.address ? atAddress(this.options.url, event.address) : null;
    if (delay === 0 && named === null) {
      // Who wants its clients back at once keeps their sessions, and serves them meanwhile.
      this.#ahead ??= this.#openAhead();
      return;
    }
    this.#goawayDelay = delay;
    this.#named = named;
    this.#isSent = named !== null;
    // Who does not is about to go, and its answers with it: they are waited for.
    this.protocol.leave(now, LEAVE_TIMEOUT_MS);
  }

  keepState(): void {
    this.owner.keepState();
  }

  streamClosed(how: Disconnect): void {
    this.#stream = null;
    this.#how = how;
    this.#wasStarted = this.#started.isGood;
    // What we closed ourselves says nothing of the session.
    const events = this.protocol.closed(how.kind === "peer" ? how.code : 0);
    this.handleEvents(events, this.environment.now());
    if (!this.#started.isDone) {
      const refusal = this.#refusal;
      let text = `the gateway ended the connection: ${describe(how)}`;
      if (refusal !== null) {
        text = `the gateway refused the session: ${describe(how, refusal.message)}`;
      } else if (how.kind === "local") {
        text = "the gateway did not answer START";
      }
      this.#started.reject(new ConnectionFailed(text, how.code || (refusal?.code ?? 0)));
    }
    this.#ended.resolve(how);
  }

  // Pauses.

  /** Wait between two tries. What the gateway asked for is kept, the rest may be cut short. */
  async #pause(delay: number, jitter: number): Promise<void> {
    await this.#sleep(delay);
    // Without a network no try is worth its while until the platform says that it is back.
    if (this.#isOffline) jitter = MAX_PAUSE_MS;
    await this.#sleep(jitter, (wake) => {
      this.#wake = wake;
    });
    this.#wake = null;
  }

  /** Wait, until stop() or a call of wake at the longest. */
  #sleep(ms: number, onWake?: (wake: () => void) => void): Promise<void> {
    const { environment } = this;
    const { signal } = this.#stopped;
    if (ms <= 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        environment.clearTimer(timer);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      const timer = environment.setTimer(wake, ms);
      signal.addEventListener("abort", wake);
      onWake?.(wake);
    });
  }
}

/** Return whether a first connect is tried again; null where its close code says so. */
function firstVerdict(error: Error): Verdict | null {
  if (!(error instanceof RequestFailed)) return null;
  if (error.retryAfterMs) {
    return { action: "fresh", delayMs: Math.min(error.retryAfterMs, MAX_RETRY_HINT_MS) };
  }
  // A no of the gateway's or of the login service's own, unless that is just busy or away.
  const isSpoken = error.outcome === Outcome.DONE && error.code !== ErrorCode.BUSY;
  const isFinal = isSpoken || error.code < ErrorCode.INTERNAL;
  return { action: isFinal ? "stop" : "fresh", delayMs: 0 };
}

/** Return url at the HOST:PORT that a gateway says is another, null where it is none. */
function atAddress(url: string, address: string): string | null {
  if (!/^[^\s/?#@\\]{1,253}:\d{1,5}$/.test(address)) return null;
  try {
    const other = new URL(url);
    other.host = address;
    // The default port of the scheme is not written.
    const port = other.port || (/^(https|wss):$/.test(other.protocol) ? "443" : "80");
    return address.endsWith(`:${port}`) ? other.href : null;
  } catch {
    return null;
  }
}
