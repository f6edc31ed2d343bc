/**
 * A connection over WebSocket: a binary message holds whole frames, close codes stand as they are.
 */

import { CloseCode, ConnectionFailed } from "./errors.js";
import { Link, type Dial, type TransportName } from "./link.js";
import { concat } from "./wire.js";

/** What the client uses of a WebSocket; the browser's, Node's and that of `ws` have it. */
export interface WebSocketLike {
  binaryType: string;
  readonly protocol: string;
  onopen: ((event: any) => unknown) | null;
  onmessage: ((event: any) => unknown) | null;
  onerror: ((event: any) => unknown) | null;
  onclose: ((event: any) => unknown) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

const SUBPROTOCOL = "gatesvr";
/** Frames are joined to messages of about this size; a frame larger than that goes alone. */
const MESSAGE_BYTES = 32 << 10;
/** The WebSocket code of a normal close, 0 in the protocol's own numbering. */
const WS_NORMAL = 1000;

/** Return what opens a WebSocket to url. */
export function webSocketDial(url: URL, WebSocket: WebSocketClass): Dial {
  const target = new URL(url);
  target.protocol = /^(https|wss):$/.test(url.protocol) ? "wss:" : "ws:";
  return (signal) =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(target.href, [SUBPROTOCOL]);
      let why = "";
      const fail = (message: string, code = 0) => {
        silence(socket);
        reject(new ConnectionFailed(`WebSocket: ${message}`, code));
      };
      const giveUp = () => {
        fail("given up");
        socket.close();
      };
      signal.addEventListener("abort", giveUp);
      socket.binaryType = "arraybuffer";
      socket.onerror = (event: { message?: string }) => {
        why = event.message ?? "";
      };
      socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
        fail(why || reason || "it did not open (certificate, origin, path?)", code >= 4000 ? code : 0);
      };
      socket.onopen = () => {
        signal.removeEventListener("abort", giveUp);
        if (socket.protocol === SUBPROTOCOL) {
          resolve(new WebSocketLink(socket));
        } else {
          fail("the server is no gateway");
          socket.close();
        }
      };
    });
}

class WebSocketLink extends Link {
  override readonly transport: TransportName = "websocket";
  readonly #socket: WebSocketLike;

  constructor(socket: WebSocketLike) {
    super();
    this.#socket = socket;
    socket.onerror = () => undefined; // onclose follows
    socket.onmessage = ({ data }: { data: unknown }) => {
      // A text message is none of ours: an empty frame says so to the decoder.
      this.received(data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(4));
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      if (code === WS_NORMAL || code >= 4000) {
        const own = code === WS_NORMAL ? CloseCode.NORMAL : code;
        this.ended({ kind: "peer", code: own, reason });
      } else {
        this.ended({ kind: "lost", code: 0, reason: reason || `WebSocket ${code}` });
      }
    };
  }

  override write(frames: Uint8Array[]): void {
    for (let at = 0; at < frames.length;) {
      const first = at;
      let size = 0;
      for (; at < frames.length; at++) {
        const next = frames[at]?.length ?? 0;
        if (at > first && size + next > MESSAGE_BYTES) break;
        size += next;
      }
      this.#socket.send(concat(frames.slice(first, at)));
    }
  }

  protected override closeTransport(code: number, reason: string): void {
    silence(this.#socket);
    this.#socket.close(code || WS_NORMAL, reason);
  }
}

function silence(socket: WebSocketLike): void {
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.onerror = () => undefined; // `ws` throws an error that nobody listens to
}
