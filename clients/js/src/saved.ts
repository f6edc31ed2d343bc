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

const TEXTS = ["openid", "clientId", "sessionId"] as const;

/** Return a state as text, for decodeState(). */
export function encodeState(state: SavedState): string {
  const resumeToken = btoa(String.fromCharCode(...state.resumeToken));
  return JSON.stringify({ ...state, resumeToken, version: VERSION });
}

/** Return the state that encodeState() made text of, null if it did not. */
export function decodeState(text: string): SavedState | null {
  if (text.length > MAX_LENGTH) return null;
  try {
    const { version, resumeToken, ...rest } = JSON.parse(text);
    const token = Uint8Array.from(atob(resumeToken), (char) => char.charCodeAt(0));
    const isGood =
      version === VERSION &&
      TEXTS.every((name) => typeof rest[name] === "string") &&
      isNumber(rest.attempt, 2 ** 32) &&
      isNumber(rest.position, 2 ** 53);
    return isGood ? { ...rest, resumeToken: token } : null;
  } catch {
    return null; // no JSON, or no base64
  }
}

function isNumber(value: number, below: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < below;
}
