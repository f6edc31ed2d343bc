/**
 * A connection over WebTransport: frames travel on the one bidirectional stream that the client
 * opens, close codes are those of the session.
 */

import { ConnectionFailed } from "./errors.js";
import { Link, type Dial, type TransportName } from "./link.js";

/** A certificate that the browser accepts by its hash: ECDSA, valid for 14 days at most. */
export interface CertificateHash {
  algorithm: "sha-256";
  value: BufferSource;
}

type BufferSource = ArrayBuffer | ArrayBufferView<ArrayBuffer>;

/** What the client uses of a WebTransport. */
export interface WebTransportLike {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<{ closeCode?: number; reason?: string }>;
  createBidirectionalStream(): Promise<{
    readable: ReadableStream<Uint8Array>;
    writable: WritableStream<Uint8Array>;
  }>;
  close(info?: { closeCode?: number; reason?: string }): void;
}

export type WebTransportClass = new (
  url: string,
  options?: { serverCertificateHashes?: CertificateHash[] },
) => WebTransportLike;

/** Return what opens a WebTransport session to url. */
export function webTransportDial(
  url: URL,
  WebTransport: WebTransportClass,
  serverCertificateHashes?: CertificateHash[],
): Dial {
  return async (signal) => {
    const session = new WebTransport(
      url.href,
      serverCertificateHashes === undefined ? {} : { serverCertificateHashes },
    );
    session.closed.catch(() => undefined);
    const giveUp = () => session.close();
    signal.addEventListener("abort", giveUp);
    try {
      await session.ready;
      const stream = await session.createBidirectionalStream();
      return new WebTransportLink(session, stream.readable, stream.writable);
    } catch (error) {
      throw new ConnectionFailed(`WebTransport: ${String(error)}`);
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  };
}

class WebTransportLink extends Link {
  override readonly transport: TransportName = "webtransport";
  readonly #session: WebTransportLike;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;

  constructor(
    session: WebTransportLike,
    readable: ReadableStream<Uint8Array>,
    writable: WritableStream<Uint8Array>,
  ) {
    super();
    this.#session = session;
    this.#writer = writable.getWriter();
    this.#writer.closed.catch(() => undefined);
    void this.#read(readable.getReader());
  }

  override write(frames: Uint8Array[]): void {
    // A write that fails is not the end: that comes by the session's.
    for (const frame of frames) this.#writer.write(frame).catch(() => undefined);
  }

  protected override closeTransport(code: number, reason: string): void {
    this.#session.close({ closeCode: code, reason });
  }

  /** Read until the stream ends, then say how the session did: the last push comes before that. */
  async #read(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        this.received(value);
      }
      // Says that the last push was read: the gateway closes the session then.
      this.#writer.close().catch(() => undefined);
      this.streamEnded();
    } catch {
      // The session's end, which follows, says why.
    }
    try {
      const { closeCode, reason } = await this.#session.closed;
      this.ended({ kind: "peer", code: closeCode ?? 0, reason: reason ?? "" });
    } catch (error) {
      this.ended({ kind: "lost", code: 0, reason: String(error) });
    }
  }
}
