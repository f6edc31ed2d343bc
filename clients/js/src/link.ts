/** The interface between a connection and the session that uses it. */

/** How a connection ended. */
export interface Disconnect {
  /**
   * `peer` the gateway closed it with a code, `local` we closed it, `lost` it broke, `handshake` it
   * never came up.
   */
  kind: "peer" | "local" | "lost" | "handshake";
  /** The close code, 0 for none. */
  code: number;
  /** The reason that came with it; text from outside. */
  reason: string;
}

/** Longest reason that a WebSocket's close frame holds, bytes. */
const MAX_REASON = 123;

export type TransportName = "webtransport" | "websocket";

/** What a link tells; nothing after its end, and nothing after close(). */
export interface LinkHandler {
  dataReceived(data: Uint8Array): void;
  /** The gateway sends nothing more; its close follows. */
  streamEnded(): void;
  linkEnded(how: Disconnect): void;
}

/** A connection that is up. */
export abstract class Link {
  abstract readonly transport: TransportName;
  #handler: LinkHandler | null = null;
  #end: Disconnect | null = null;
  #isClosed = false;

  /** Send whole frames, in order. */
  abstract write(frames: Uint8Array[]): void;

  /** Close with a code; the handler hears nothing more. */
  close(code: number, reason = ""): void {
    if (!this.#isClosed) {
      this.#isClosed = true;
      // A reason may be an application's own text, and too many bytes of it make a close fail.
      this.closeTransport(code, reason.replace(/[^ -~]/g, "?").slice(0, MAX_REASON));
    }
  }

  /** Take the one handler; if the link has ended meanwhile, it hears so at once. */
  attach(handler: LinkHandler): void {
    this.#handler = handler;
    if (this.#end !== null) handler.linkEnded(this.#end);
  }

  protected abstract closeTransport(code: number, reason: string): void;

  // What a transport tells.

  protected received(data: Uint8Array): void {
    if (!this.#isClosed) this.#handler?.dataReceived(data);
  }

  protected streamEnded(): void {
    if (!this.#isClosed) this.#handler?.streamEnded();
  }

  protected ended(how: Disconnect): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#end = how;
    this.#handler?.linkEnded(how);
  }
}

/** Opens a link, or throws; gives up and closes what it has when the signal aborts. */
export type Dial = (signal: AbortSignal) => Promise<Link>;
