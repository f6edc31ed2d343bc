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

/** Return a state as text, for decodeState(). The Python client reads the same. */
export function encodeState(state: SavedState): string {
  return JSON.stringify({
    version: VERSION,
    openid: state.openid,
    client_id: state.clientId,
    session_id: state.sessionId,
    resume_token: btoa(String.fromCharCode(...state.resumeToken)),
    attempt: state.attempt,
    position: state.position,
  });
}

/** Return the state that encodeState() made text of, null if it did not. */
export function decodeState(text: string): SavedState | null {
  if (text.length > MAX_LENGTH) return null;
  try {
    const fields = JSON.parse(text) as Record<string, unknown>;
    const { openid, client_id, session_id, resume_token, attempt, position } = fields;
    if (
      fields.version !== VERSION ||
      typeof openid !== "string" ||
      typeof client_id !== "string" ||
      typeof session_id !== "string" ||
      typeof resume_token !== "string" ||
      !isNumber(attempt, 2 ** 32) ||
      !isNumber(position, 2 ** 53)
    ) {
      return null;
    }
    const resumeToken = Uint8Array.from(atob(resume_token), (char) => char.charCodeAt(0));
    return { openid, clientId: client_id, sessionId: session_id, resumeToken, attempt, position };
  } catch {
    return null; // no JSON, or no base64
  }
}

function isNumber(value: unknown, below: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < below;
}
