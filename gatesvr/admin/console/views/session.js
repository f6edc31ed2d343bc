// Session: all that the gateway knows of one client, its order drawn, and its events as they come.

import { ApiError, get, post, stream } from "../api.js";
import { badge, setBadge, stateBadge } from "../badge.js";
import { ask, toast } from "../dialogs.js";
import { attr, figure, follow, h, text } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import { Strip } from "../strip.js";

const MAX_EVENTS = 200;
const MAX_REASON = 64;

/** What is shown of a session, by group: label, field, text. */
const GROUPS = {
  Identity: [
    ["Openid", "openid", (s) => s.openid],
    ["Proved subject", "auth_subject", (s) => s.auth_subject],
    ["Client", "client_id", (s) => s.client_id],
    ["Zone", "zone", (s) => s.zone],
    ["Address at START", "ip", (s) => `${s.ip}:${s.user_port}`],
    ["Created", "created", (s) => format.moment(s.created)],
    ["Age", "age_s", (s) => format.span(s.age_s)],
    ["Idle", "idle_s", (s) => format.span(s.idle_s)],
    ["Resumes", "resumes", (s) => format.count(s.resumes)],
    ["Generation", "generation", (s) => format.count(s.generation)],
    ["Protocol", "protocol", (s) => `${s.protocol}, capabilities ${s.capabilities}`],
    ["Logged in", "logged_in", (s) => (s.logged_in ? "yes" : s.hello_pending ? "hello pending" : "no")],
    ["Time to come back", "tombstone_s", (s) => format.span(s.tombstone_s)],
  ],
  Connection: [
    ["Address", "connection.address", (s) => s.connection?.address],
    ["Transport", "transport", (s) => s.transport],
    ["Number", "connection.number", (s) => format.count(s.connection?.number)],
    ["Backend", "connection.backend", (s) => s.connection?.backend],
    ["Round trip", "connection.rtt_s", (s) => format.seconds(s.connection?.rtt_s || null)],
    ["Congestion window", "connection.cwnd", (s) => format.bytes(s.connection?.cwnd)],
    ["Bytes in flight", "connection.in_flight_bytes", (s) => format.bytes(s.connection?.in_flight_bytes)],
    ["Bytes unsent", "connection.unsent_bytes", (s) => format.bytes(s.connection?.unsent_bytes)],
    ["Packets lost", "connection.lost", (s) => format.count(s.connection?.lost)],
    ["Path changes", "connection.path_changes", (s) => format.count(s.connection?.path_changes?.length)],
  ],
  Traffic: [
    ["Requests", "rates.requests", (s) => `${format.rate(s.rates.requests)}/s`],
    ["To the client", "rates.pushes", (s) => `${format.rate(s.rates.pushes)}/s`],
    ["Client seq", "sequence.client_seq", (s) => format.count(s.sequence.client_seq)],
    ["Requests in flight", "in_flight", (s) => format.count(s.in_flight)],
    ["Queue", "queue_messages", (s) => `${format.count(s.queue_messages)} of ${format.count(s.max_queue_size)}`],
    ["Queue bytes", "queue_bytes", (s) => `${format.bytes(s.queue_bytes)} of ${format.bytes(s.max_queue_bytes)}`],
    ["Oldest unacked", "oldest_unacked_s", (s) => (s.oldest_unacked_s ? format.seconds(s.oldest_unacked_s) : "–")],
    ["Notifies bound", "before_notifies", (s) => `${s.before_notifies} before, ${s.after_notifies} after`],
    ["Notifies held", "held_notifies", (s) => format.count(s.held_notifies)],
    ["Largest message", "max_message_bytes", (s) => format.bytes(s.max_message_bytes)],
  ],
};
const SHOWN = new Set([
  "session", "state", "rate", "rtt_s", "events", "traced", "sequence", "connection", "rates", "pending",
  "queue", "number", "user_port", "capabilities", "hello_pending", "max_queue_size", "max_queue_bytes",
  "after_notifies", "stopped", "worker", ...Object.values(GROUPS).flat().map(([, field]) => field),
]);

/** A panel with a table whose rows come and go. */
function listPanel(title, columns, body, empty, note = null) {
  return h("section", { class: "panel list-panel" },
    h("header", { class: "panel-head" }, h("h2", {}, title), note),
    h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": title },
      h("table", { class: "grid" }, h("thead", {}, h("tr", {}, columns.map((name) =>
        h("th", { scope: "col" }, name)))), body), empty));
}

function at(object, path) {
  return path.split(".").reduce((value, name) => value?.[name], object);
}

/** A field that no group names: whatever a newer gateway tells is shown too. */
function more(session) {
  return Object.keys(session).filter((name) => !SHOWN.has(name))
    .map((name) => [name[0].toUpperCase() + name.slice(1).replaceAll("_", " "), name, (s) => format.anything(s[name])]);
}

export class Session {
  #stream = null;
  #events = [];
  #isEnded = false;

  constructor({ id, setTitle }) {
    this.id = id;
    this.setTitle = setTitle;
    this.path = `sessions/${encodeURIComponent(id)}`;
    this.state = badge();
    this.notice = h("span", { class: "status-reason" });
    this.trace = h("button", { class: "button small", type: "button", "aria-pressed": "false", title: "Trace (e)",
      onclick: () => this.#switchTrace() }, "Trace");
    this.push = h("button", { class: "button small", type: "button", title: "Push (p)", onclick: () => this.#askPush() }, "Push…");
    this.kick = h("button", { class: "button small danger", type: "button", title: "Kick (x)", onclick: () => this.#askKick() }, "Kick…");
    this.strip = new Strip();
    this.groups = h("div", { class: "groups" });
    this.events = h("tbody");
    this.noEvent = h("p", { class: "empty" }, "No event yet.");
    this.isOn = h("span", { class: "panel-note" });
    this.pending = h("tbody");
    this.noPending = h("p", { class: "empty small" }, "No request is unanswered.");
    this.content = h("div", { class: "stack" }, this.strip.root, h("div", { class: "session-parts" }, this.groups,
      h("div", { class: "stack" },
        listPanel("Unanswered requests", ["Action", "Service", "Client seq", "Slot", "Age"], this.pending, this.noPending),
        listPanel("Events", ["Time", "Event", "Detail"], this.events, this.noEvent, this.isOn))));
    this.root = h("div", { class: "stack" },
      h("section", { class: "status", "aria-label": "Session" }, this.state,
        h("code", { class: "session-id" }, id),
        h("button", { class: "icon-button", type: "button", "aria-label": "Copy the session id", title: "Copy",
          onclick: () => navigator.clipboard?.writeText(id).then(() => toast("Copied.")) }, icon("copy")),
        this.notice, h("span", { class: "actions" }, this.trace, this.push, this.kick)),
      this.content);
    this.keys = {
      x: () => this.#askKick(), p: () => this.#askPush(), e: () => this.#switchTrace(),
      Escape: () => { location.hash = "#/sessions"; },
    };
  }

  start() {
    this.setTitle("Session");
    this.#stream = stream(`${this.path}/stream`, {
      session: (session) => this.#show(session),
      trace: (event) => this.#add([event]),
      goodbye: () => this.#look(),
      $lost: () => this.#look(),
    });
  }

  destroy() {
    this.#stream?.close();
  }

  // A stream that ends does not say whether the session or only the connection to us is gone.
  async #look() {
    try {
      await get(this.path);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 404) this.#end(error.message);
    }
  }

  #end() {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#stream.close();
    setBadge(this.state, ["bad", "gone"]);
    text(this.notice, "This session has ended, or there never was one of this id.");
    for (const button of [this.trace, this.push, this.kick]) button.disabled = true;
    this.content.classList.add("is-ended");
  }

  #show(session) {
    this.session = session;
    this.setTitle(session.openid || "Session");
    setBadge(this.state, stateBadge(session.state));
    attr(this.state, "data-value", session.state);
    text(this.notice, session.connection ? "" : "no connection at present");
    this.strip.update(session.sequence);
    this.#showTrace();
    this.noPending.hidden = session.pending.length > 0;
    follow(this.pending, session.pending, (one) => one.client_seq,
      () => h("tr", {}, ["", "", "figure", "figure", "figure"].map((name) => h("td", { class: name }))),
      ({ cells }, one) => [one.action || "–", one.service || "–", format.count(one.client_seq), one.slot || "–",
        one.age_s ? format.seconds(one.age_s) : "–"].forEach((value, index) => text(cells[index], value)));
    const groups = Object.entries(GROUPS);
    if ((session.worker ?? null) !== null) {
      groups[0] = ["Identity", [...GROUPS.Identity, ["Worker", "worker", (s) => String(s.worker)]]];
    }
    const sums = Object.keys(session.queue ?? {}).map((name) =>
      [name[0].toUpperCase() + name.slice(1).replaceAll("_", " "), `queue.${name}`, (s) => format.count(s.queue[name])]);
    const rest = [...sums, ...more(session)];
    if (rest.length) groups.push(["Since its start", rest]);
    follow(this.groups, groups, ([name]) => name,
      ([name]) => h("section", { class: "panel" }, h("header", { class: "panel-head" }, h("h2", {}, name)), h("dl", { class: "fields" })),
      (element, [, fields]) => follow(element.lastChild, fields, ([, field]) => field,
        ([label, field]) => h("div", {}, h("dt", {}, label), h("dd", { class: "figure", "data-field": field })),
        (item, [, field, show]) => {
          const value = at(session, field);
          figure(item.lastChild, show(session) || "–", typeof value === "object" ? null : value);
        }));
    const moves = (session.connection?.path_changes ?? []).map((change) =>
      ({ time: change.time, event: "path changed", detail: `${change.from} to ${change.to}` }));
    this.#add([...(session.events ?? []), ...moves]);
  }

  #add(events) {
    const name = ({ time, event, detail }) => `${time} ${event} ${format.anything(detail)}`;
    const known = new Set(this.#events.map(name));
    const fresh = events.filter((event) => !known.has(name(event)));
    if (!fresh.length) return;
    this.#events = [...this.#events, ...fresh].sort((one, other) => other.time - one.time).slice(0, MAX_EVENTS);
    this.noEvent.hidden = true;
    follow(this.events, this.#events, name, (event) => h("tr", {}, h("td", { class: "figure quiet" }, format.clock(event.time, true)),
      h("td", {}, event.event), h("td", { class: "mono value" }, format.anything(event.detail))), () => {});
  }

  #showTrace() {
    attr(this.trace, "aria-pressed", String(Boolean(this.session?.traced)));
    text(this.trace, this.session?.traced ? "Stop trace" : "Trace");
    text(this.isOn, this.session?.traced ? "tracing, live" : "");
    attr(this.isOn, "class", this.session?.traced ? "panel-note live" : "panel-note");
  }

  async #switchTrace() {
    if (!this.session || this.#isEnded) return;
    const on = !this.session.traced;
    try {
      await post(`${this.path}/trace`, { on });
      this.session.traced = on;
      this.#showTrace();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      toast(error.message, "bad");
    }
  }

  #askKick() {
    if (!this.session || this.#isEnded) return;
    ask({
      title: "Kick this session?",
      lines: [`${this.session.openid || "This client"} loses its session at once; what is queued for it is dropped.`],
      fields: [
        { name: "reason", label: "Reason, for the client", value: "kicked by an operator", isFirst: true,
          hint: `${MAX_REASON} bytes at most.` },
        { name: "code", label: "Code, for the client", kind: "number", value: 4410, min: 1000, isRequired: true,
          hint: "The connection itself closes with 4410." },
      ],
      action: "Kick session",
      isDanger: true,
      act: async ({ reason, code }) => {
        await post(`${this.path}/kick`, { code: Number(code), reason });
        this.#end();
        toast("The session was kicked.");
      },
    });
  }

  #askPush() {
    if (!this.session || this.#isEnded) return;
    ask({
      title: "Push to this session",
      lines: ["The message takes its place in the session's order, after all that is queued."],
      fields: [
        { name: "type", label: "Type", placeholder: "notice", hint: "What the client's code knows the notify by.", isFirst: true },
        { name: "content", label: "Content", kind: "area" },
      ],
      action: "Push",
      act: async ({ type, content }) => {
        await post(`${this.path}/push`, { msg_type: type, content });
        toast("Pushed.");
      },
    });
  }
}
