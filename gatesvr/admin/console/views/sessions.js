// Sessions: found, sorted and paged by the server, so that ten thousand are as quick as ten.

import { ApiError, get } from "../api.js";
import { badge, setBadge, stateBadge } from "../badge.js";
import { attr, figure, follow, h, row, table, text } from "../dom.js";
import * as format from "../format.js";

const LIMIT = 50;
const REFRESH_MS = 2000;
const TYPING_MS = 180;
const COLUMNS = [
  { label: "Openid", sort: "openid", first: "asc" }, { label: "State" },
  { label: "Queue", sort: "queue", class: "num" }, { label: "Bytes", class: "num wide" },
  { label: "In flight", class: "num wide" }, { label: "Rate", sort: "rate", class: "num" },
  { label: "RTT", class: "num wide" }, { label: "Idle", class: "num wide" },
  { label: "Age", sort: "age", class: "num" }, { label: "Zone", class: "wide" },
  { label: "Address", class: "mono wide" }, { label: "Transport", class: "wide" }, { label: "Client", class: "wide" },
  { label: "Worker", class: "num wide of-fleet" },
];

export class Sessions {
  #pages = [null]; // tokens of the pages up to this one
  #next = null;
  #timer = 0;
  #abort = null;

  constructor({ query }) {
    this.wanted = {
      q: query.get("q") ?? "", state: query.get("state") ?? "", zone: query.get("zone") ?? "",
      sort: query.get("sort") ?? "queue", order: query.get("order") ?? "desc",
    };
    this.isFocused = query.has("focus");
    this.search = h("input", { type: "search", class: "search", placeholder: "Openid or session id", value: this.wanted.q,
      "aria-label": "Search sessions by openid or session id", spellcheck: "false", autocapitalize: "off",
      oninput: () => this.#change({ q: this.search.value.trim() }, TYPING_MS) });
    this.states = h("select", { "aria-label": "State", onchange: () => this.#change({ state: this.states.value }) },
      [["", "Any state"], ["normal", "Normal"], ["suspended", "Suspended"], ["inited", "Logging in"]]
        .map(([value, label]) => h("option", { value }, label)));
    this.states.value = this.wanted.state;
    this.zone = h("input", { type: "text", class: "short", inputmode: "numeric", placeholder: "Zone", value: this.wanted.zone,
      "aria-label": "Zone", oninput: () => this.#change({ zone: this.zone.value.trim() }, TYPING_MS) });
    this.total = h("span", { class: "total figure", "data-field": "total", role: "status" }, "–");
    this.heads = new Map();
    const columns = COLUMNS.map((column) => (column.sort ? { ...column, head: this.#head(column) } : column));
    const made = table(columns, { class: "grid list" });
    this.table = made.table;
    this.body = made.body;
    this.empty = h("p", { class: "empty" });
    this.empty.hidden = true;
    this.place = h("span", { class: "figure", role: "status" });
    this.previous = h("button", { class: "button small", type: "button", title: "Previous page ([)", onclick: () => this.#turn(-1) }, "Previous");
    this.following = h("button", { class: "button small", type: "button", title: "Next page (])", onclick: () => this.#turn(1) }, "Next");
    this.root = h("div", { class: "stack" },
      h("div", { class: "tools" }, this.search, this.states, this.zone, this.total),
      h("section", { class: "panel flush" },
        h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Sessions" }, this.table), this.empty,
        h("footer", { class: "pager" }, this.place, this.previous, this.following)));
    this.keys = { "[": () => this.#turn(-1), "]": () => this.#turn(1) };
    this.#showSort();
  }

  start() {
    if (this.isFocused) this.focus();
    this.#load();
  }

  focus() {
    this.search.focus();
    this.search.select();
  }

  destroy() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  #head({ label, sort, first }) {
    const button = h("button", { type: "button", class: "sort", onclick: () => {
      const isSame = this.wanted.sort === sort;
      const other = this.wanted.order === "desc" ? "asc" : "desc";
      this.#change({ sort, order: isSame ? other : first ?? "desc" });
    } }, label);
    this.heads.set(sort, button);
    return button;
  }

  #showSort() {
    for (const [sort, button] of this.heads) {
      const order = this.wanted.sort === sort ? this.wanted.order : null;
      attr(button, "data-order", order);
      if (button.closest("th")) {
        attr(button.closest("th"), "aria-sort", order && (order === "asc" ? "ascending" : "descending"));
      }
    }
  }

  #change(wanted, after = 0) {
    Object.assign(this.wanted, wanted);
    this.#pages = [null];
    this.#showSort();
    const query = new URLSearchParams(Object.entries(this.wanted).filter(([, value]) => value));
    history.replaceState(null, "", `#/sessions?${query}`);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), after);
  }

  #turn(step) {
    if (step > 0 && this.#next) this.#pages.push(this.#next);
    else if (step < 0 && this.#pages.length > 1) this.#pages.pop();
    else return;
    this.#next = null;
    this.#load();
  }

  async #load() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    const query = new URLSearchParams({ limit: String(LIMIT) });
    for (const [name, value] of Object.entries(this.wanted)) if (value) query.set(name, value);
    if (this.#pages.at(-1)) query.set("page", this.#pages.at(-1));
    try {
      if (!document.hidden) this.#show(await get(`sessions?${query}`, abort.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      if (error.status) {
        text(this.empty, error.message);
        this.empty.hidden = false;
      }
    }
    if (this.#abort === abort) this.#timer = setTimeout(() => this.#load(), REFRESH_MS);
  }

  #show({ total, sessions, next, silent }) {
    this.#next = next;
    const missing = silent?.length ? `; worker ${silent.join(", ")} does not answer` : "";
    figure(this.total, `${format.count(total)} session${total === 1 ? "" : "s"}${missing}`, total);
    this.total.classList.toggle("warn", Boolean(missing));
    this.empty.hidden = sessions.length > 0;
    this.table.hidden = !sessions.length;
    const isNarrowed = this.wanted.q || this.wanted.state || this.wanted.zone;
    text(this.empty, isNarrowed ? "No session matches." : "No client is connected.");
    const first = (this.#pages.length - 1) * LIMIT;
    text(this.place, sessions.length
      ? `${format.count(first + 1)}–${format.count(first + sessions.length)} of ${format.count(total)}` : "");
    this.previous.disabled = this.#pages.length < 2;
    this.following.disabled = !next;
    follow(this.body, sessions, (one) => one.session, (one) => {
      const element = row(COLUMNS);
      element.cells[0].append(h("a", { class: "row-link", href: `#/sessions/${encodeURIComponent(one.session)}` }));
      element.cells[1].append(badge());
      return element;
    }, ({ cells }, one) => {
      text(cells[0].firstChild, one.openid || "not known");
      attr(cells[0].firstChild, "title", one.session);
      setBadge(cells[1].firstChild, stateBadge(one.state));
      figure(cells[2], format.count(one.queue_messages), one.queue_messages);
      text(cells[3], one.queue_bytes ? format.bytes(one.queue_bytes) : "–");
      text(cells[4], one.in_flight || "–");
      text(cells[5], one.rate ? `${format.rate(one.rate)}/s` : "–");
      text(cells[6], one.rtt_s ? format.seconds(one.rtt_s) : "–");
      text(cells[7], format.span(one.idle_s));
      text(cells[8], format.span(one.age_s));
      text(cells[9], one.zone || "–");
      text(cells[10], one.ip || "–");
      text(cells[11], one.transport || "–");
      text(cells[12], one.client_id || "–");
      text(cells[13], one.worker ?? "–");
    });
  }
}
