// The admin API: requests, and event streams that come back by themselves.

const BASE = "api/v1/";

/** The server refused a request: status and the code of its error. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(BASE + path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The gateway does not answer.");
  }
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok) return body;
  const { code = "error", message = response.statusText } = body?.error ?? {};
  if (response.status === 401) window.dispatchEvent(new Event("gatesvr:login"));
  throw new ApiError(response.status, code, message);
}

/** Read a resource. */
export function get(path, signal) {
  return call(path, { signal });
}

/** Change something; the header tells the server that no foreign page has sent it. */
export function post(path, body = {}) {
  return call(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-GateSvr": "1" },
    body: JSON.stringify(body),
  });
}

/**
 * Follow a stream of events until close() is called. It opens anew after an end, with growing
 * pauses, and after a silence longer than the server's heartbeat allows.
 *
 * @param path Of the stream.
 * @param handlers Event name to a function of its data; `$open`, `$lost` tell of the connection.
 */
export function stream(path, handlers) {
  const SILENCE_MS = 8000;
  let source = null;
  let timer = 0;
  let watch = 0;
  let attempt = 0;
  let isClosed = false;

  function lose() {
    source?.close();
    source = null;
    clearTimeout(watch);
    if (isClosed) return;
    attempt += 1;
    handlers.$lost?.(attempt);
    clearTimeout(timer);
    timer = setTimeout(open, Math.min(4000, 250 * 2 ** attempt));
  }

  function heard() {
    clearTimeout(watch);
    watch = setTimeout(lose, SILENCE_MS);
  }

  function open() {
    source = new EventSource(BASE + path);
    heard();
    source.addEventListener("open", () => {
      heard();
      handlers.$open?.();
    });
    source.addEventListener("error", lose);
    for (const [name, handler] of Object.entries(handlers)) {
      if (name.startsWith("$")) continue;
      source.addEventListener(name, (event) => {
        heard();
        attempt = 0;
        handler(JSON.parse(event.data || "null"));
      });
    }
  }

  open();
  return {
    close() {
      isClosed = true;
      clearTimeout(timer);
      clearTimeout(watch);
      source?.close();
    },
  };
}
