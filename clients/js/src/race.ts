/** Opens the first of several ways that comes up. */

import { ConnectionFailed } from "./errors.js";
import type { Environment } from "./environment.js";
import type { Dial, Link } from "./link.js";

/** How long a way is tried before the next one is tried beside it, ms. */
export const STAGGER_MS = 800;

/**
 * Open the first way, beside it the next one when that is not up after STAGGER_MS or has failed, and
 * so on; close the losers.
 *
 * @param signal Ends it.
 * @returns The link, and the number of its way.
 * @throws {ConnectionFailed} None came up in time.
 */
export function openFirst(
  dials: readonly Dial[],
  environment: Environment,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<[Link, number]> {
  return new Promise((resolve, reject) => {
    const giveUp = new AbortController();
    let next = 0;
    let running = 0;
    let isOver = false;
    let stagger: unknown = null;
    let failure: ConnectionFailed | null = null; // of all ways so far

    const end = () => {
      isOver = true;
      environment.clearTimer(stagger);
      environment.clearTimer(timer);
      signal.removeEventListener("abort", aborted);
      giveUp.abort();
    };
    const fail = (error: Error) => {
      if (!isOver) {
        end();
        reject(error);
      }
    };
    const startNext = () => {
      environment.clearTimer(stagger);
      const index = next;
      const dial = dials[index];
      if (dial === undefined) {
        if (running === 0) {
          fail(failure ?? new ConnectionFailed("no transport (on Node, pass a WebSocket)"));
        }
        return;
      }
      next++;
      running++;
      stagger = environment.setTimer(startNext, STAGGER_MS);
      dial(giveUp.signal).then(
        (link) => {
          if (isOver) {
            link.close(0);
          } else {
            end();
            resolve([link, index]);
          }
        },
        ({ message, code }: ConnectionFailed) => {
          running--;
          if (isOver) return;
          failure = new ConnectionFailed(failure ? `${failure.message}; ${message}` : message, code);
          startNext();
        },
      );
    };
    const aborted = () => fail(new ConnectionFailed("given up"));
    const timer = environment.setTimer(
      () => fail(new ConnectionFailed(`no connection within ${Math.round(timeoutMs)} ms`)),
      timeoutMs,
    );
    signal.addEventListener("abort", aborted);
    if (signal.aborted) aborted();
    else startNext();
  });
}
