/** A request that has no answer yet; it may have to be sent again. */

import { BusinessRequest, LOGIN_ACTION, RequestType, requestFrame } from "./messages.js";
import { utf8, type Texts } from "./wire.js";

/** What a ClientRequest takes at most beside its payload and headers, bytes. */
const MAX_ENVELOPE_BYTES = 64;
/** What a header takes at most beside its two texts, bytes. */
const MAX_ENTRY_BYTES = 16;

export class PendingRequest {
  readonly isLogin: boolean;
  /** Whether it has ever been sent. */
  isSent = false;
  /** When it was sent last. */
  sentAt = 0;
  readonly #payload: Uint8Array;

  constructor(
    /** The same each time it is sent. */
    readonly msgId: number,
    action: string,
    data: Uint8Array,
    params: Texts,
    readonly headers: Texts,
  ) {
    this.isLogin = action.toLowerCase() === LOGIN_ACTION;
    this.#payload = BusinessRequest.encode({ action, params, data });
  }

  /** Bytes that its frame takes at most, the length's 4 left out. */
  get maxSize(): number {
    let size = this.#payload.length + MAX_ENVELOPE_BYTES;
    for (const [name, value] of Object.entries(this.headers)) {
      size += utf8(name).length + utf8(value).length + MAX_ENTRY_BYTES;
    }
    return size;
  }

  /** Return its frame, with an ack on the way where ackSeq is not 0. */
  frame(seq: number, ackSeq: number): Uint8Array {
    this.isSent = true;
    return requestFrame({
      msgId: this.msgId,
      seq,
      type: RequestType.BUSINESS,
      payload: this.#payload,
      headers: this.headers,
      ackSeq,
    });
  }
}
