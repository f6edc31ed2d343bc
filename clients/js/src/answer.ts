/** A service's answer to a request. */

import { OK } from "./messages.js";
import type { Texts } from "./wire.js";

export class Answer {
  constructor(
    /** The service's own code, 200 where all went well. */
    readonly code: number,
    /** The service's text beside the code. */
    readonly message: string,
    /** The payload. */
    readonly data: Uint8Array,
    /** The service's headers. */
    readonly headers: Texts,
    /** The seq of the request that this answers. */
    readonly clientSeq: number,
    /** The answer's place in the session's outgoing order. */
    readonly serverSeq: number,
  ) {}

  /** Whether the code is 200. */
  get isOk(): boolean {
    return this.code === OK;
  }

  /** The payload as text. */
  get text(): string {
    return new TextDecoder().decode(this.data);
  }
}
