// The tab's network, with a switch to cut it.

/**
 * What the client has in place of the window's network events, WebSocket and WebTransport: as the
 * window tells them, and nothing at all while it is cut.
 */
export class Network extends EventTarget {
  isCut = false;

  /** @param socketUrl Where WebSockets go, whatever the URL of the gateway. */
  constructor(socketUrl) {
    super();
    for (const type of ["online", "offline", "pagehide", "pageshow"]) {
      addEventListener(type, () => {
        if (!this.isCut || type.startsWith("page")) this.dispatchEvent(new Event(type));
      });
    }
    const network = this;
    this.WebSocket = class extends WebSocket {
      constructor(url, protocols) {
        network.#check();
        super(socketUrl, protocols);
      }
    };
    this.WebTransport = "WebTransport" in globalThis ? class extends WebTransport {
      constructor(url, options) {
        network.#check();
        super(url, options);
      }
    } : null;
  }

  /** As the client asks the window. */
  get navigator() {
    return { onLine: navigator.onLine && !this.isCut };
  }

  /** Cut it, or mend it. */
  cut(isCut) {
    this.isCut = isCut;
    if (isCut || navigator.onLine) this.dispatchEvent(new Event(isCut ? "offline" : "online"));
  }

  #check() {
    if (this.isCut) throw new Error("the network is cut");
  }
}
