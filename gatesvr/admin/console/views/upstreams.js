// Upstreams: every endpoint of every service, and how it does.

import { badge, setBadge } from "../badge.js";
import { figure, follow, h, row, table, text } from "../dom.js";
import { brief, count, seconds } from "../format.js";
import { store } from "../store.js";

const COLUMNS = [
  { label: "Service" }, { label: "Address", class: "mono" }, { label: "Health" },
  { label: "In flight", class: "num" }, { label: "p50", class: "num wide" },
  { label: "p99", class: "num" }, { label: "Requests", class: "num wide" },
  { label: "Failures", class: "num" }, { label: "Waiting", class: "num wide" },
  { label: "Batch", class: "num wide" }, { label: "Calls by", class: "wide" },
  { label: "From", class: "wide" }, { label: "Zone", class: "wide" },
];

/** One word and one colour for an endpoint: what its health, breaker and state come to. */
export function verdict({ state, health, breaker }) {
  if (breaker === "open") return ["bad", "breaker open"];
  if (breaker === "half_open") return ["warn", "on trial"];
  if (health === "up") return ["good", "up"];
  return state === "connecting" ? ["warn", state] : ["bad", health];
}

/** Rows of upstreams for a table with these columns. */
export class UpstreamTable {
  constructor(columns = COLUMNS) {
    this.columns = columns;
    const made = table(columns, { class: "grid" });
    Object.assign(this, { root: made.table, body: made.body });
  }

  update(upstreams) {
    const values = {
      Service: (cell, one) => text(cell, one.service),
      Address: (cell, one) => text(cell, one.name ? `${one.address} (${one.name})` : one.address),
      Health: (cell, one) => {
        if (!cell.firstChild) cell.append(badge());
        setBadge(cell.firstChild, verdict(one));
      },
      "In flight": (cell, one) => figure(cell, count(one.in_flight), one.in_flight),
      p50: (cell, one) => text(cell, one.p50 ? seconds(one.p50) : "–"),
      p99: (cell, one) => text(cell, one.p99 ? seconds(one.p99) : "–"),
      Requests: (cell, one) => figure(cell, brief(one.requests), one.requests),
      Failures: (cell, one) => figure(cell, count(one.failures), one.failures),
      Waiting: (cell, one) => figure(cell, count(one.waiting), one.waiting),
      Batch: (cell, one) => text(cell, one.batch_mean ? one.batch_mean.toFixed(1) : "–"),
      "Calls by": (cell, one) => text(cell, one.state),
      From: (cell, one) => text(cell, one.registered ? "registration" : "configuration"),
      Zone: (cell, one) => text(cell, one.zone || "all"),
    };
    follow(this.body, upstreams, (one) => `${one.service} ${one.zone} ${one.address}`, () => row(this.columns),
      (element, one) => this.columns.forEach(({ label }, index) => values[label](element.cells[index], one)));
  }
}

export class Upstreams {
  constructor() {
    this.table = new UpstreamTable();
    this.empty = h("p", { class: "empty" }, "No upstream is registered.");
    this.root = h("div", { class: "stack" },
      h("section", { class: "panel flush" }, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Upstreams" }, this.table.root), this.empty));
  }

  update(overview) {
    this.table.update(overview.upstreams);
    this.empty.hidden = overview.upstreams.length > 0;
  }

  start() {
    if (!store.overview) this.empty.hidden = true;
  }
}
