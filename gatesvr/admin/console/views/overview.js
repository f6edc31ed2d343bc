// Overview: what the gateway does now and did in the last minutes.

import { post } from "../api.js";
import { badge, setBadge, stateBadge } from "../badge.js";
import { Ladder, Spark, TimeChart } from "../charts.js";
import { ask, toast } from "../dialogs.js";
import { attr, figure, follow, h, row, table, text } from "../dom.js";
import * as format from "../format.js";
import { sessionsOf, store } from "../store.js";
import { UpstreamTable } from "./upstreams.js";
import { Workers } from "./workers.js";

const SPARK_POINTS = 120;
const RANGES = [[300, "5 min"], [900, "15 min"]];
const MAX_REFUSALS = 8;
const MAX_SLOWEST = 6;
const STATES = [["normal", "Normal"], ["suspended", "Suspended"], ["inited", "Logging in"]];

/** The tiles: name, field of the API, series behind the line, figure, and the line beneath. */
const TILES = [
  { name: "Requests", field: "rates.requests", series: "requests", unit: "/s",
    value: (o) => o.rates.requests, show: format.rate,
    note: (o) => `${format.rate(o.rates.answers)} answers/s` },
  { name: "Pushes", field: "rates.pushes", series: "pushes", unit: "/s",
    value: (o) => o.rates.pushes, show: format.rate,
    note: (o) => `${format.bytes(o.rates.bytes_out)}/s out` },
  { name: "Latency p99", field: "latency.request.p99", series: "p99", split: format.splitSeconds,
    value: (o) => (o.latency.request?.count ? o.latency.request.p99 : null),
    note: (o) => `median ${format.seconds(o.latency.request?.count ? o.latency.request.p50 : null)}` },
  { name: "Sessions", field: "sessions", series: "sessions",
    value: sessionsOf, show: format.count,
    note: (o) => `${format.count(o.connections)} connections` },
  { name: "In flight", field: "in_flight", series: "in_flight",
    value: (o) => o.in_flight, show: format.count,
    note: (o) => `${o.workers_busy} of ${o.workers} ${o.fleet ? "tasks busy" : "workers"}` },
  { name: "Queue depth", field: "queue_messages", series: "queue_messages",
    value: (o) => o.queue_messages, show: format.count,
    note: (o) => `${format.bytes(o.queue_bytes)}, oldest ${format.seconds(o.oldest_unacked_s)}` },
  { name: "Refusals", field: "refusals", series: "refusals", unit: "/s",
    value: (o) => o.refusals.reduce((sum, one) => sum + one.rate, 0), show: format.rate,
    note: (o) => `${format.brief(o.refusals.reduce((sum, one) => sum + one.total, 0))} since start` },
  { name: "Loop lag", field: "lag_s", series: "lag_s", split: format.splitSeconds,
    value: (o) => o.lag_s, note: (o) => `${format.count(o.tasks_queued)} tasks queued` },
  { name: "CPU", field: "rates.cpu", series: "cpu", unit: "%",
    value: (o) => o.rates.cpu, show: (value) => (value === null ? "–" : (value * 100).toFixed(0)),
    note: (o) => `${format.span(o.cpu_s)} in all` },
  { name: "Memory", field: "memory_bytes", series: "memory_bytes", split: format.splitBytes,
    value: (o) => o.memory_bytes,
    note: (o) => `up ${format.span(o.uptime_s)}` },
];

class Tile {
  constructor(tile) {
    this.tile = tile;
    this.number = h("b", { class: "tile-number", "data-field": tile.field }, "–");
    this.unit = h("span", { class: "tile-unit" }, tile.unit ?? "");
    this.note = h("span", { class: "tile-note" }, "\u00a0");
    this.spark = new Spark();
    this.root = h("div", { class: "tile" }, h("span", { class: "tile-name" }, tile.name),
      h("span", { class: "tile-value" }, this.number, this.unit), this.note, this.spark.root);
  }

  update(overview) {
    const { tile } = this;
    const value = tile.value(overview);
    const [shown, unit] = tile.split ? tile.split(value) : [tile.show(value), tile.unit ?? ""];
    figure(this.number, shown, value ?? "");
    text(this.unit, unit);
    text(this.note, tile.note(overview));
    this.spark.update(store.series[tile.series].slice(-SPARK_POINTS));
  }
}

const PHASES = {
  unready: "not ready, still taking clients", goaway: "asking clients to leave",
  finishing: "waiting for answers", stopped: "stopped",
};

/** Ready or why not, and how far a drain is. */
class Readiness {
  constructor() {
    this.badge = badge();
    this.reason = h("span", { class: "status-reason" });
    this.meter = h("progress", { class: "meter", max: 1, value: 0, "aria-label": "Drain progress" });
    this.certificate = h("span", { class: "status-note" });
    this.handshakes = h("span", { class: "status-note wide" });
    this.drain = h("button", { class: "button small", type: "button", onclick: askDrain }, "Drain…");
    this.root = h("section", { class: "status", "aria-label": "Readiness" }, this.badge, this.reason,
      this.meter, this.handshakes, this.certificate, this.drain);
  }

  update(overview) {
    const { drain, ready, not_ready: reasons } = overview;
    setBadge(this.badge, drain ? ["warn", "Draining"] : ready ? ["good", "Ready"] : ["bad", "Not ready"]);
    attr(this.badge, "data-field", "ready");
    attr(this.badge, "data-value", ready);
    this.root.classList.toggle("is-draining", Boolean(drain));
    if (drain) {
      const gone = drain.connections_at_start - drain.connections_left;
      this.meter.value = drain.connections_at_start ? gone / drain.connections_at_start : 1;
      text(this.reason, `${PHASES[drain.phase] ?? drain.phase}: ${format.count(drain.connections_left)} of ` +
        `${format.count(drain.connections_at_start)} connections left, ` +
        `${format.count(drain.requests_left)} requests; cut off in ${format.span(drain.remaining_s)}`);
    } else text(this.reason, reasons.join(", "));
    text(this.handshakes, `${format.count(overview.handshakes)} handshakes`);
    const left = overview.certificate_expires - overview.time;
    text(this.certificate, overview.certificate_expires ? `certificate for ${format.span(left)}` : "");
    attr(this.certificate, "class", left < 7 * 86400 ? "status-note warn" : "status-note");
    this.drain.disabled = overview.draining;
  }
}

function askDrain() {
  ask({
    title: "Drain this gateway?",
    lines: [
      "It becomes unready, takes no new connection, asks its clients to go elsewhere at this rate, " +
        "finishes their requests and then ends. This cannot be undone.",
    ],
    fields: [
      { name: "rate", label: "Clients a second", kind: "number", value: 200, min: 1, isRequired: true },
      { name: "timeout", label: "Seconds at most", kind: "number", min: 1, hint: "Empty: as configured." },
      { name: "word", label: "Type drain to confirm", word: "drain", isRequired: true, isFirst: true },
    ],
    action: "Drain",
    isDanger: true,
    async act({ rate, timeout }) {
      await post("drain", { rate: Number(rate), timeout: timeout ? Number(timeout) : null });
      toast("The gateway drains.");
    },
  });
}

const STAGES = [
  ["request", "Whole request"], ["queue_wait", "Queue wait"], ["upstream:", "Upstream "],
  ["send", "Send"], ["login", "Login"], ["handshake", "Handshake"], ["rtt", "Round trip"],
  ["lag", "Loop lag"], ["gc_pause", "GC pause"],
];

function rank(stage) {
  const at = STAGES.findIndex(([name]) => (name.endsWith(":") ? stage.startsWith(name) : stage === name));
  return at < 0 ? STAGES.length : at;
}

function stageName(stage) {
  const [name, label] = STAGES[rank(stage)] ?? [stage, stage];
  return label + stage.slice(name.length);
}

/** Latency by stage. */
class Stages {
  constructor() {
    this.columns = [
      { label: "Stage" }, { class: "ladder-cell", head: h("span", { class: "ladder-head" }, h("span", {}, "1 µs"), h("span", {}, "10 s")) }, { label: "p50", class: "num" },
      { label: "p90", class: "num wide" }, { label: "p99", class: "num" },
      { label: "p99.9", class: "num wide" }, { label: "max", class: "num wide" },
      { label: "Count", class: "num wide" },
    ];
    const made = table(this.columns, { class: "grid stages" });
    this.body = made.body;
    this.root = h("section", { class: "panel" },
      h("header", { class: "panel-head" }, h("h2", {}, "Latency by stage"),
        h("span", { class: "panel-note" }, "last 10 s")), made.table);
  }

  update({ latency }) {
    const stages = Object.keys(latency).sort((one, other) =>
      rank(one) - rank(other) || one.localeCompare(other));
    follow(this.body, stages, (stage) => stage, (stage) => {
      const element = row(this.columns);
      text(element.cells[0], stageName(stage));
      element.ladder = new Ladder();
      element.cells[1].append(element.ladder.root);
      return element;
    }, (element, stage) => {
      const one = latency[stage];
      element.ladder.update(one);
      element.classList.toggle("is-idle", !one.count);
      const show = (index, key) => figure(element.cells[index],
        one.count ? format.seconds(one[key]) : "–", one.count ? one[key] : "");
      ["p50", "p90", "p99", "p999", "max"].forEach((key, index) => show(index + 2, key));
      figure(element.cells[7], format.brief(one.count), one.count);
    });
  }
}

/** Sessions by state, as one bar. */
class States {
  constructor() {
    this.parts = STATES.map(([name]) => h("i", { class: `part ${name}` }));
    this.values = STATES.map(([name]) => h("b", { class: "figure", "data-field": `sessions.${name}` }, "–"));
    this.bar = h("div", { class: "stack-bar", "aria-hidden": "true" }, this.parts);
    this.root = h("section", { class: "panel" },
      h("header", { class: "panel-head" }, h("h2", {}, "Sessions by state")), this.bar,
      h("div", { class: "states" }, STATES.map(([name, label], index) =>
        h("a", { class: "legend-item", href: `#/sessions?state=${name}` }, h("i", { class: `part ${name}` }),
          label, this.values[index]))));
  }

  update({ sessions }) {
    const all = Math.max(1, Object.values(sessions).reduce((sum, number) => sum + number, 0));
    STATES.forEach(([name], index) => {
      this.parts[index].style.flexGrow = String((sessions[name] ?? 0) / all);
      this.parts[index].hidden = !sessions[name];
      figure(this.values[index], format.count(sessions[name] ?? 0), sessions[name] ?? 0);
    });
  }
}

/** Refusals by reason. */
class Refusals {
  constructor() {
    this.columns = [{ label: "Reason" }, { label: "Rate", class: "num" }, { label: "Total", class: "num" }];
    const made = table(this.columns, { class: "grid" });
    this.body = made.body;
    this.empty = h("p", { class: "empty" }, "Nothing has been refused.");
    this.root = h("section", { class: "panel grow" },
      h("header", { class: "panel-head" }, h("h2", {}, "Refusals by reason")), made.table, this.empty);
    this.table = made.table;
  }

  update({ refusals }) {
    this.empty.hidden = refusals.length > 0;
    this.table.hidden = !refusals.length;
    const shown = refusals.slice(0, MAX_REFUSALS);
    follow(this.body, shown, (one) => one.reason, (one) => {
      const element = row(this.columns);
      const [layer, ...name] = one.reason.split(".");
      element.cells[0].append(h("span", { class: "quiet" }, `${layer} `), name.join(".").replaceAll("_", " "));
      attr(element.cells[0], "title", one.reason);
      return element;
    }, (element, one) => {
      text(element.cells[1], one.rate ? `${format.rate(one.rate)}/s` : "–");
      element.classList.toggle("is-moving", one.rate > 0);
      figure(element.cells[2], format.count(one.total), one.total);
      attr(element.cells[2], "data-field", `refusals.${one.reason}`);
    });
  }
}

/** The sessions whose clients are furthest behind. */
class Slowest {
  constructor() {
    this.columns = [
      { label: "Session" }, { label: "State" }, { label: "Queue", class: "num" },
      { label: "Bytes", class: "num wide" }, { label: "Oldest", class: "num" },
    ];
    const made = table(this.columns, { class: "grid" });
    this.table = made.table;
    this.body = made.body;
    this.empty = h("p", { class: "empty" }, "No session is behind.");
    this.root = h("section", { class: "panel grow" },
      h("header", { class: "panel-head" }, h("h2", {}, "Slowest sessions"),
        h("a", { class: "panel-note", href: "#/sessions?sort=queue&order=desc" }, "all sessions")),
      made.table, this.empty);
  }

  update({ slowest }) {
    this.empty.hidden = slowest.length > 0;
    this.table.hidden = !slowest.length;
    follow(this.body, slowest.slice(0, MAX_SLOWEST), (one) => one.session, (one) => {
      const element = row(this.columns);
      element.cells[0].append(h("a", { class: "row-link", href: `#/sessions/${encodeURIComponent(one.session)}` }));
      element.cells[1].append(badge());
      return element;
    }, (element, one) => {
      const { cells } = element;
      text(cells[0].firstChild, one.openid || one.session.slice(0, 12));
      setBadge(cells[1].firstChild, stateBadge(one.state));
      figure(cells[2], format.count(one.queue_messages), one.queue_messages);
      text(cells[3], format.bytes(one.queue_bytes));
      text(cells[4], one.oldest_unacked_s ? format.seconds(one.oldest_unacked_s) : "–");
    });
  }
}

export class Overview {
  constructor() {
    this.readiness = new Readiness();
    this.tiles = TILES.map((tile) => new Tile(tile));
    this.throughput = new TimeChart({
      title: "Throughput", format: (value) => (value === 0 ? "0" : format.rate(value)), least: 10,
      series: [
        { label: "requests/s", colour: "--blue", class: "ink-blue", isFilled: true },
        { label: "answers/s", colour: "--ink", class: "ink-ink", dash: [2, 4], width: 1.2 },
        { label: "pushes/s", colour: "--orange", class: "ink-orange" },
      ],
    });
    this.latency = new TimeChart({
      title: "Request latency", format: format.seconds, least: 0.001,
      series: [
        { label: "p50", colour: "--blue", class: "ink-blue", isFilled: true },
        { label: "p99", colour: "--red", class: "ink-red", dash: [6, 3] },
      ],
    });
    this.upstreams = new UpstreamTable([
      { label: "Service" }, { label: "Address", class: "mono" }, { label: "Health" },
      { label: "In flight", class: "num wide" }, { label: "p99", class: "num" },
      { label: "Failures", class: "num wide" },
    ]);
    this.noUpstream = h("p", { class: "empty" }, "No upstream is registered: no request finds a service.");
    this.parts = [this.readiness, ...this.tiles, new Workers(), new Stages(), new States(), new Refusals(), new Slowest()];
    const [workers, stages, states, refusals, slowest] = this.parts.slice(-5);
    this.range = 300;
    this.ranges = RANGES.map(([range, label]) =>
      h("button", { type: "button", "aria-pressed": String(range === this.range), onclick: () => this.#choose(range) }, label));
    this.latency.root.querySelector(".panel-head").append(
      h("div", { class: "switch", role: "group", "aria-label": "Time shown" }, this.ranges));
    // Shown when it is known what is in it, so that nothing moves to make room.
    this.lists = h("div", { class: "stack", hidden: true },
      workers.root,
      h("div", { class: "thirds" },
        stages.root,
        h("div", { class: "stack" }, states.root, refusals.root)),
      h("div", { class: "halves" },
        h("section", { class: "panel grow" },
          h("header", { class: "panel-head" }, h("h2", {}, "Upstreams"),
            h("a", { class: "panel-note", href: "#/upstreams" }, "all columns")),
          this.upstreams.root, this.noUpstream),
        slowest.root));
    this.root = h("div", { class: "stack" }, this.readiness.root,
      h("section", { class: "tiles", "aria-label": "Figures" }, this.tiles.map((tile) => tile.root)),
      h("div", { class: "halves" }, this.throughput.root, this.latency.root), this.lists);
    this.noUpstream.hidden = true;
  }

  update(overview) {
    for (const part of this.parts) part.update(overview);
    this.lists.hidden = false;
    this.upstreams.update(overview.upstreams);
    this.upstreams.root.hidden = !overview.upstreams.length;
    this.noUpstream.hidden = overview.upstreams.length > 0;
    this.#draw();
  }

  destroy() {
    this.throughput.destroy();
    this.latency.destroy();
  }

  #choose(range) {
    this.range = range;
    this.ranges.forEach((button, index) => attr(button, "aria-pressed", String(RANGES[index][0] === range)));
    this.#draw();
  }

  #draw() {
    const since = store.time.at(-1) - this.range;
    const from = Math.max(0, store.time.findIndex((time) => time >= since));
    const columns = (...names) => [store.time.slice(from), ...names.map((name) => store.series[name].slice(from))];
    this.throughput.update(columns("requests", "answers", "pushes"), this.range);
    this.latency.update(columns("p50", "p99"), this.range);
  }
}
