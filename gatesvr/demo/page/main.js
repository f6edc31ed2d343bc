// The tab: one client with its session, what the buttons do to it, and what is shown of it.

import { element, text } from "./dom.js";
import { Network } from "./network.js";
import { Room, face } from "./room.js";

const settings = JSON.parse(document.querySelector("meta[name=gatesvr]").content);
const NAMES = "Ada Bo Cleo Dov Eli Fay Gus Hana Ivo Juno Kai Lena Milo Nia Otto Pia Quin Rafa Suki Tove Uma Vito Wren Yuki Zoe".split(" ");
const NAME_KEY = "gatesvr.name";
const MAX_NAME = 32;
const LOCK_TIMEOUT_MS = 500; // a page that is being reloaded holds its name a little longer
const PROBE_MS = 2_000;
const TALK_MS = 1_000;
const SHOW_MS = 250;
const MAX_WAITING = 20; // lines that wait before this tab stops talking by itself
const MAX_PROBES = 36;
const WAYS = { websocket: "WebSocket", webtransport: "WebTransport" };
const NO_CLIENT = "The page needs the JavaScript client, which is not built here: run make serve where npm is"
  + " installed, or put clients/js/dist/bundle.js at gatesvr/demo/page/client.js.";

/** Return this tab's name, that no other tab of the browser has, also not one that copied it. */
async function claimName() {
  const asked = new URLSearchParams(location.search).get("name")?.trim().slice(0, MAX_NAME);
  const kept = sessionStorage.getItem(NAME_KEY);
  if (kept && (!asked || asked === kept) && await lock(kept)) return kept;
  if (kept) forget();
  for (;;) {
    const some = NAMES[Math.floor(Math.random() * NAMES.length)];
    const name = asked || `${some}-${100 + Math.floor(Math.random() * 900)}`;
    // An asked name may be taken: the gateway says what becomes of two.
    if (await lock(name) || asked) {
      sessionStorage.setItem(NAME_KEY, name);
      return name;
    }
  }
}

function forget() {
  sessionStorage.clear();
  Room.forget();
}

/** Return whether this page has a name to itself, from now until it goes. */
function lock(name) {
  return new Promise((resolve) => {
    const signal = AbortSignal.timeout(LOCK_TIMEOUT_MS);
    navigator.locks.request(`gatesvr.name:${name}`, { signal }, () => {
      resolve(true);
      return new Promise(() => {});
    }).catch(() => resolve(false));
  });
}

/** The URL of the gateway, for WebTransport; WebSockets go where the page came from. */
function gatewayUrl() {
  const isLocal = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(location.hostname);
  const host = isLocal ? settings.loopback : `${location.hostname}:${settings.port}`;
  return `https://${host}${settings.path}`;
}

function socketUrl() {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${settings.path}`;
}

function certificateHashes() {
  if (!settings.hash) return undefined;
  const value = Uint8Array.from(atob(settings.hash), (char) => char.charCodeAt(0));
  return [{ algorithm: "sha-256", value }];
}

class Tab {
  #client;
  #network = new Network(socketUrl());
  #room;
  #ways = []; // as the client looks at it before each connection
  #probes = [];
  #isProbing = false;
  #cutAt = 0;
  #resumed = 0; // connections that took the session up again
  #upAt = 0; // when the connection came back after a cut
  #back = null; // the note on that, and how many lines had waited
  #isSwitching = false; // of transports, not after a cut
  #talker = 0;
  #end = ""; // why the client is closed

  constructor(library, name) {
    this.library = library;
    this.name = name;
    this.#room = new Room(name);
    text(element("name"), name);
    element("face").replaceWith(face(name));
    document.title = `${name} · GateSvr demo`;
    this.#setWay("auto");
    this.#wire();
    setInterval(() => this.#show(), SHOW_MS);
    setInterval(() => void this.#probe(), PROBE_MS);
    void this.#begin();
  }

  // The session.

  async #begin() {
    const { Client } = this.library;
    this.#end = "";
    this.#cutAt = this.#resumed = 0;
    notice("");
    const client = new Client(gatewayUrl(), {
      openid: this.name,
      clientId: "demo page",
      storage: true,
      transports: this.#ways,
      serverCertificateHashes: certificateHashes(),
      WebSocket: this.#network.WebSocket,
      WebTransport: this.#network.WebTransport,
      environment: { window: this.#network },
    });
    this.#client = client;
    client.on("state", (state) => this.#stateChanged(state));
    client.on("kicked", ({ reason }) => {
      this.#end = reason === "replaced"
        ? `This session was ended: somebody else came in as ${this.name}.`
        : `This session was ended: ${reason || "by a service"}.`;
    });
    client.on("lost", ({ firstSeq, lastSeq }) => {
      this.#room.note(`${lastSeq - firstSeq + 1} messages were dropped by the gateway`, "is-bad");
    });
    client.on("goaway", ({ reason }) => this.#room.note(`The gateway asks to leave: ${reason}`));
    try {
      await client.connect();
      if (!client.connects.resumed) await this.#join();
      void this.#probe();
      await this.#read();
    } catch (error) {
      this.#end ||= `No session: ${error.message}.`;
    }
    this.#over();
  }

  /** Take in what was said before; the room hears of it, unless isAgain. */
  async #join(isAgain = false) {
    const params = isAgain ? { quiet: "1" } : {};
    const answer = await this.#client.request("chat_join", "", { params, timeout: 15_000 });
    if (!answer.isOk) throw new Error(answer.message);
    const { room, lines } = JSON.parse(answer.text);
    for (const { n, who, text: words, at_ms: at } of lines) {
      this.#room.take({ n, room, who, text: words, at, seq: 0, isLate: false });
    }
  }

  /** Read notifies until the session is over for good. The next one is asked for when this is kept. */
  async #read() {
    const { SessionLost, NotifyOverflow } = this.library;
    for (;;) {
      try {
        for await (const notify of this.#client.notifies()) this.#heard(notify);
        return;
      } catch (error) {
        if (error instanceof NotifyOverflow) {
          this.#room.note(`${error.count} lines came too fast`, "is-bad");
        } else if (error instanceof SessionLost && !error.isFinal) {
          this.#room.note("The gateway knows the session no more: this is a new one", "is-bad");
          this.#back = null;
          await this.#join(true);
        } else {
          throw error;
        }
      }
    }
  }

  #heard({ msgType, title: who, content, data, serverSeq: seq }) {
    if (msgType === "chat") {
      const { n, room, at_ms: at } = JSON.parse(new TextDecoder().decode(data));
      const isLate = at < this.#upAt;
      const isNew = this.#room.take({ n, room, who, text: content, at, seq, isLate });
      if (isNew && isLate && this.#back !== null) {
        this.#back.count++;
        text(this.#back.note, this.#back.words());
      }
    } else if (msgType === "chat_joined" && who !== this.name) {
      this.#room.note(`${who} came in`);
      void this.#probe();
    } else if (msgType === "chat_left") {
      this.#room.note(`${who} left`);
      void this.#probe();
    }
  }

  #stateChanged(state) {
    if (state === "reconnecting") {
      this.#cutAt = Date.now();
      this.#back = null;
    } else if (state === "connected" && this.#client.connects.resumed > this.#resumed) {
      this.#resumed = this.#client.connects.resumed;
      this.#upAt = Date.now();
      if (!this.#cutAt) {
        this.#room.note("Reloaded, in the same session", "is-good");
        return;
      }
      if (this.#isSwitching) {
        this.#isSwitching = false;
        this.#room.note(`Now by ${WAYS[this.#client.transport]}, in the same session`, "is-good");
        return;
      }
      const seconds = ((this.#upAt - this.#cutAt) / 1000).toFixed(1);
      const back = {
        count: 0,
        words: () => `Back after ${seconds} s, in the same session: ${
          back.count ? `${back.count} ${back.count === 1 ? "line" : "lines"} had waited` : "nothing is lost"}`,
      };
      back.note = this.#room.note(back.words(), "is-good").firstElementChild;
      this.#back = back;
      void this.#probe();
    }
    this.#show();
  }

  #over() {
    this.#talk(false);
    this.#show();
    notice(this.#end || "The session is closed.", "Begin again", () => {
      if (this.#end.startsWith("This session")) {
        // Whoever took the name has it.
        forget();
        location.replace(location.pathname);
      } else {
        void this.#begin();
      }
    });
  }

  // What the buttons do.

  #wire() {
    const cut = element("cut");
    cut.addEventListener("click", () => {
      this.#network.cut(!this.#network.isCut);
      cut.setAttribute("aria-pressed", this.#network.isCut);
      text(cut, this.#network.isCut ? "Mend the network" : "Cut the network");
      document.documentElement.classList.toggle("is-cut", this.#network.isCut);
      this.#show();
    });
    element("reload").addEventListener("click", () => location.reload());
    element("talk").addEventListener("click", () => this.#talk(!this.#talker));
    element("say").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = element("text");
      const words = field.value.trim();
      field.value = "";
      if (words) void this.#say(words);
    });
    const hasWebTransport = settings.webtransport && this.#network.WebTransport !== null;
    for (const radio of document.querySelectorAll("#ways input")) {
      if (radio.value === "webtransport" && !hasWebTransport) {
        radio.disabled = true;
        radio.parentElement.title = settings.webtransport
          ? "this browser has no WebTransport" : "this gateway has no WebTransport";
      }
      radio.addEventListener("change", () => {
        this.#setWay(radio.value);
        this.#isSwitching = this.#client?.isConnected ?? false;
        this.#client?.drop(); // the next connection goes the other way, in the same session
      });
    }
  }

  #setWay(way) {
    const all = settings.webtransport ? ["webtransport", "websocket"] : ["websocket"];
    this.#ways.splice(0, Infinity, ...(way === "auto" ? all : [way]));
  }

  #talk(isOn) {
    clearInterval(this.#talker);
    this.#talker = 0;
    let count = 0;
    if (isOn) {
      this.#talker = setInterval(() => {
        if (this.#room.waiting < MAX_WAITING) void this.#say(`${++count}`);
      }, TALK_MS);
    }
    element("talk").setAttribute("aria-pressed", isOn);
    text(element("talk"), isOn ? "Be quiet" : "Talk by itself");
  }

  async #say(words) {
    const waiting = this.#room.wait(words);
    try {
      const answer = await this.#client.request("chat_say", words, { timeout: 600_000 });
      if (answer.isOk) waiting.done();
      else waiting.failed(answer.message);
    } catch (error) {
      waiting.failed(error.message);
    }
  }

  // What is shown.

  /** Measure a round trip, and see who is here. */
  async #probe() {
    const client = this.#client;
    if (!client?.isConnected || document.hidden || this.#isProbing) return;
    try {
      this.#isProbing = true;
      const began = performance.now();
      await client.request("echo", "", { timeout: 5_000 });
      this.#probes.push(performance.now() - began);
      if (this.#probes.length > MAX_PROBES) this.#probes.shift();
      const answer = await client.request("chat_people", "", { timeout: 5_000 });
      if (answer.isOk) this.#room.people(JSON.parse(answer.text));
    } catch {
      // It is cut: what is shown says so.
    } finally {
      this.#isProbing = false;
    }
  }

  #show() {
    const client = this.#client;
    if (client === undefined) return;
    const [words, kind] = this.#stateWords(client);
    text(element("state"), words);
    element("state").className = `state ${kind}`;
    text(element("people-title"), client.isConnected ? "In the room" : "In the room, when last seen");
    const { total, resumed } = client.connects;
    // The state is for the storage; its position is what was acknowledged.
    const { position } = JSON.parse(client.savedState());
    const { requests, answers } = client.counters;
    const rtt = this.#probes.at(-1);
    const isUp = client.isConnected;
    field("transport", isUp ? WAYS[client.transport] ?? "–" : "–", client.transport ?? "");
    field("rtt", isUp && rtt !== undefined ? `${rtt < 10 ? rtt.toFixed(1) : Math.round(rtt)} ms` : "–", rtt ?? "");
    field("session", client.sessionId.slice(0, 8) || "–", client.sessionId);
    field("connects", total ? `${total}, ${resumed} resumed` : "–", `${total} ${resumed}`);
    field("received", client.serverSeq);
    field("acked", position);
    field("sent", requests);
    field("answered", answers);
    this.#spark();
    const { first, last, count, missing, twice } = this.#room.verdict();
    const verdict = element("verdict");
    text(verdict, count
      ? `${count > 1 ? `Lines ${first} to ${last}` : `Line ${first}`}: ${missing ? `${missing} missing` : "none missing"}, ${twice ? `${twice} twice` : "none twice"}`
      : "No line yet");
    verdict.className = `verdict ${!count ? "" : missing || twice ? "is-bad" : "is-good"}`;
    Object.assign(verdict.dataset, { first, last, count, missing, twice });
  }

  #stateWords(client) {
    if (client.state === "closed") return ["Closed", "is-bad"];
    if (this.#network.isCut) return ["Network cut: the session waits at the gateway", "is-bad"];
    if (!navigator.onLine) return ["Offline", "is-bad"];
    if (client.isConnected) return ["Connected", "is-good"];
    const [way] = this.#ways;
    const by = this.#ways.length === 1 ? ` by ${WAYS[way]}` : "";
    return [`${client.state === "reconnecting" ? "Coming back" : "Connecting"}${by}`, "is-waiting"];
  }

  #spark() {
    const most = Math.max(...this.#probes, 1);
    const step = 72 / (MAX_PROBES - 1);
    const from = 72 - step * (this.#probes.length - 1);
    const points = this.#probes.map((ms, i) => `${(from + i * step).toFixed(1)},${(16 - 14 * ms / most).toFixed(1)}`);
    element("spark").firstElementChild.setAttribute("points", points.join(" "));
  }
}

/** Show a figure: its text for readers, its exact value for whoever compares. */
function field(name, shown, value = shown) {
  const found = document.querySelector(`[data-field="${name}"]`);
  text(found, shown);
  found.dataset.value = value;
  if (name === "session") found.title = value;
}

/** Show what is to be known before anything else, with a button; "" for nothing. */
function notice(words, label = "", act = null) {
  const button = element("notice-button");
  element("notice").hidden = !words;
  text(element("notice-text"), words);
  button.hidden = !act;
  text(button, label);
  button.onclick = act;
}

// On a phone the room is what matters, and the figures are a tap away.
const narrow = matchMedia("(max-width: 679px)");
const fold = () => (element("figures").open = !narrow.matches);
narrow.addEventListener("change", fold);
fold();

element("theme").addEventListener("click", () => {
  const { dataset } = document.documentElement;
  const isDark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("gatesvr.theme", dataset.theme);
});

try {
  const library = await import("./client.js");
  new Tab(library, await claimName());
} catch (error) {
  text(element("state"), "Not started");
  notice(error instanceof TypeError ? NO_CLIENT : String(error));
}
