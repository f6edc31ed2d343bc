/** What a client does when its connection has ended: the close-code table, and the pauses. */

import { CloseCode } from "./errors.js";
import type { Disconnect } from "./link.js";

/** Longest retry_after_ms that is believed (PROTOCOL 3.8). */
export const MAX_RETRY_HINT_MS = 60_000;
/** Longest reconnect_after_ms that is believed (PROTOCOL 3.8). */
export const MAX_RECONNECT_HINT_MS = 300_000;
/** Longest pause between two tries (PROTOCOL 3.8). */
export const MAX_PAUSE_MS = 30_000;

/** A new connection for the same session, one for a new session, or nothing more. */
export type Action = "resume" | "fresh" | "stop";

export interface Verdict {
  action: Action;
  /** What the gateway asks to wait, ms; 0 for none, the back-off applies anyhow. */
  delayMs: number;
}

// PROTOCOL 6. Unknown 45xx may pass; unknown 44xx, the operator's own 46xx and the rest are final.
const FRESH: number[] = [CloseCode.RESUME_DENIED, CloseCode.OPENID_BUSY];
const RESUME: number[] = [
  CloseCode.TIMEOUT,
  CloseCode.SUPERSEDED,
  CloseCode.SLOW_CONSUMER,
  CloseCode.RATE_LIMITED,
];

const KINDS = {
  peer: "closed",
  local: "closed here",
  lost: "the connection broke",
  handshake: "the connection did not come up",
};

/**
 * Return what the close-code table says of the end of a connection.
 *
 * @param isStarted Whether START had been answered well on it.
 */
export function verdictOf(how: Disconnect, isStarted: boolean): Verdict {
  // Lost, or closed by us because it was silent or broken: the session is still there.
  if (how.kind !== "peer") return { action: "resume", delayMs: 0 };
  // A client has one connection at a time, so it was another's that came after this one: that of a
  // second client with the same state, and each would throw the other out.
  if (how.code === CloseCode.SUPERSEDED && isStarted) return { action: "stop", delayMs: 0 };
  const delayMs = hintOf(how.reason);
  if (FRESH.includes(how.code)) return { action: "fresh", delayMs };
  const mayPass = RESUME.includes(how.code) || Math.floor(how.code / 100) === 45;
  return mayPass ? { action: "resume", delayMs } : { action: "stop", delayMs: 0 };
}

function hintOf(reason: string): number {
  const match = /re(try|connect)_after_ms=(\d{1,9})/.exec(reason);
  if (match === null) return 0;
  const longest = match[1] === "try" ? MAX_RETRY_HINT_MS : MAX_RECONNECT_HINT_MS;
  return Math.min(Number(match[2]), longest);
}

/** Return the end of a connection in words. */
export function describe(how: Disconnect, message = ""): string {
  const [name] = Object.entries(CloseCode).find(([, code]) => code === how.code) ?? [""];
  const isNamed = how.kind === "peer" && how.code > 0 && name !== "";
  const meaning = isNamed ? name.toLowerCase().replace("_", " ") : KINDS[how.kind];
  const detail = message || how.reason;
  return `${how.code ? `${how.code} ` : ""}${meaning}${detail ? `: ${detail}` : ""}`;
}

/** Pauses between tries: full jitter, 0 ... min(30 s, 0.5 s x 2^n) (PROTOCOL 3.8). */
export class Backoff {
  #tries = 0;

  constructor(readonly longestMs = MAX_PAUSE_MS) {}

  /**
   * Return the next pause behind what the gateway asks to wait, ms.
   *
   * The jitter is as long again as delayMs: those who were told the same do not come back in the
   * same moment.
   */
  next(random: number, delayMs: number): number {
    // The exponent is bounded: 2**1100 would overflow after a long night offline.
    const longest = Math.max(500 * 2 ** Math.min(this.#tries++, 32), delayMs);
    return Math.min(this.longestMs, longest) * random;
  }

  /** Begin again: a connection held. */
  reset(): void {
    this.#tries = 0;
  }
}
