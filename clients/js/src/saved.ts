/** What a client keeps to go on after a reload or a restart (PROTOCOL 4.6); it holds a secret. */

const VERSION = 1;
/** Longest state that is read; a real one has a few hundred characters. */
const MAX_LENGTH = 4096;

export interface SavedState {
  openid: string;
  clientId: string;
  /** Empty for none. */
  sessionId: string;
  resumeToken: Uint8Array;
  /** Tries with that token. */
  attempt: number;
  /** The highest server seq that the application has. */
  position: number;
}

/** Return a state as text, for decodeState(). */
export function encodeState(state: SavedState): string {
  const resumeToken = btoa(String.fromCharCode(...state.resumeToken));
  return JSON.stringify({ ...state, resumeToken, version: VERSION });
}

/** Return the state that encodeState() made text of, null if it did not. */
export function decodeState(text: string): SavedState | null {
  if (text.length > MAX_LENGTH) return null;
  try {
    const saved = JSON.parse(text);
    const { openid, clientId, sessionId, attempt, position } = saved;
    const resumeToken = Uint8Array.from(atob(saved.resumeToken), (char) => char.charCodeAt(0));
    const isGood =
      saved.version === VERSION &&
      [openid, clientId, sessionId].every((value) => typeof value === "string") &&
      isNumber(attempt, 2 ** 32) &&
      isNumber(position, 2 ** 53);
    // By their names: the text may hold others, and a session is made of these.
    return isGood ? { openid, clientId, sessionId, resumeToken, attempt, position } : null;
  } catch {
    return null; // no JSON, or no base64
  }
}

function isNumber(value: number, below: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < below;
}
