// The room: what was said, what waits to be said, and who is here.

import { element, h, text } from "./dom.js";

/** Lines kept over a reload, and shown at most. */
const MAX_LINES = 200;
const KEY = "gatesvr.lines";
const WAYS = { quic: "QUIC", websocket: "WebSocket", webtransport: "WebTransport" };
const AT_END = 48; // px from the end that count as the end

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** The hue of a name, the same in every tab. */
export function hue(name) {
  let sum = 7;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 360;
  return sum;
}

/** Return the face of a name: its first letter, in its colour. */
export function face(name) {
  return h("span", { class: `face hue-${Math.round(hue(name) / 45) % 8}`, "aria-hidden": "true" },
    [...name][0]?.toUpperCase() ?? "?");
}

export class Room {
  #me;
  #lines = [];
  #numbers = new Set(); // of the lines that came, also those no longer shown
  #pushed = new Set(); // of these, the ones that came as pushes
  #first = 0; // the lowest number that came
  #twice = 0;
  #room = ""; // whose numbers these are
  #last = null; // the last line that is shown, for who goes on speaking
  #list = element("lines");
  #outbox = element("outbox");
  #scroll = element("scroll");

  constructor(me) {
    this.#me = me;
    for (const line of this.#stored()) {
      if (line.room !== this.#room) this.#begin(line.room);
      this.#add(line);
    }
  }

  /** Forget what was said: somebody else sits here. */
  static forget() {
    sessionStorage.removeItem(KEY);
  }

  /**
   * Take a line in, once. It is stored before this returns: the client acknowledges it then.
   *
   * @param line Number n, room, who, text, at (ms), seq (0 where it came as history), isLate.
   */
  take(line) {
    if (line.room !== this.#room) this.#begin(line.room);
    if (this.#numbers.has(line.n)) {
      // History and a push may tell the same line; two pushes of one would be a fault.
      if (line.seq && this.#pushed.has(line.n)) this.#twice++;
      return false;
    }
    this.#add(line);
    this.#store();
    return true;
  }

  /** Begin to count anew: the service was started again. */
  #begin(room) {
    this.#room = room;
    this.#numbers.clear();
    this.#pushed.clear();
    this.#first = this.#twice = 0;
  }

  /** Show what happened, among the lines. */
  note(words, kind = "") {
    const item = h("li", { class: `note ${kind}` }, h("span", {}, words));
    this.#append(item);
    this.#last = null;
    return item;
  }

  /** Show a line that waits; return what takes it away. */
  wait(words) {
    const state = h("span", { class: "seq" }, "waits");
    const item = h("li", { class: "line is-mine is-waiting" },
      h("div", { class: "beside" }, h("div", { class: "bubble" }, words), state));
    item.dataset.text = words;
    this.#keepEnd(() => this.#outbox.append(item));
    return {
      done: () => item.remove(),
      failed: (why) => {
        item.classList.add("is-failed");
        text(state, why);
      },
    };
  }

  /** Take away what waited and has come back as a line. */
  #said(words) {
    for (const item of this.#outbox.children) {
      if (item.dataset.text === words) return item.remove();
    }
  }

  get waiting() {
    return this.#outbox.childElementCount;
  }

  /** Whether every line since the first one came, and came once. */
  verdict() {
    const { size } = this.#numbers;
    if (!size) return { first: 0, last: 0, count: 0, missing: 0, twice: 0 };
    let last = 0;
    for (const n of this.#numbers) if (n > last) last = n;
    return { first: this.#first, last, count: size, missing: last - this.#first + 1 - size, twice: this.#twice };
  }

  people(found) {
    const items = found.map(({ name, state, transport, waiting }) => {
      const isAway = state !== "Normal";
      const how = isAway
        ? `away, ${waiting} ${waiting === 1 ? "message waits" : "messages wait"}`
        : (WAYS[transport] ?? transport);
      return h("li", { class: isAway ? "is-away" : "" }, face(name),
        h("span", { class: "person" }, name, name === this.#me ? h("span", { class: "quiet" }, " you") : null),
        h("span", { class: "how" }, how));
    });
    element("people").replaceChildren(...items);
  }

  #add(line) {
    const { n, who, text: words, at, seq, isLate } = line;
    this.#numbers.add(n);
    if (seq) this.#pushed.add(n);
    this.#first = this.#first ? Math.min(this.#first, n) : n;
    this.#lines.push(line);
    if (this.#lines.length > MAX_LINES) this.#lines.shift();
    const isMine = who === this.#me;
    const goesOn = this.#last !== null && this.#last.who === who && at - this.#last.at < 120_000;
    const when = at ? clock.format(at) : "";
    const tag = h("span", { class: "seq", title: seq ? `server seq ${seq}, line ${n}` : `line ${n}, told on joining` },
      seq ? `#${seq}` : "before");
    const item = h("li", { class: `line ${isMine ? "is-mine" : ""} ${goesOn ? "goes-on" : ""} ${isLate ? "is-late" : ""}` },
      isMine ? null : face(who),
      h("div", { class: "said" },
        h("div", { class: goesOn ? "unseen" : "speaker" }, who, h("span", { class: "when" }, ` ${when}`)),
        h("div", { class: "beside" }, h("div", { class: "bubble" }, words), tag)));
    item.dataset.n = n;
    item.dataset.seq = seq;
    if (isMine) this.#said(words);
    this.#append(item);
    this.#last = line;
  }

  #append(item) {
    this.#keepEnd(() => {
      this.#list.append(item);
      while (this.#list.childElementCount > MAX_LINES) this.#list.firstElementChild.remove();
    });
  }

  /** Change what is shown; who was at the end stays there, who reads further up is left alone. */
  #keepEnd(change) {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < AT_END;
    change();
    if (isAtEnd) this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  #stored() {
    try {
      const lines = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
      return Array.isArray(lines) ? lines : [];
    } catch {
      return []; // written by something else
    }
  }

  #store() {
    sessionStorage.setItem(KEY, JSON.stringify(this.#lines));
  }
}
