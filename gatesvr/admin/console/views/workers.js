// Workers: the processes of a gateway of several, one a row, and how evenly they share its load.

import { badge, setBadge } from "../badge.js";
import { attr, figure, follow, h, row, table, text } from "../dom.js";
import * as format from "../format.js";

const COLUMNS = [
  { label: "Worker" }, { label: "State" },
  { label: "Sessions", class: "share-cell" }, { label: "CPU", class: "share-cell" },
  { label: "Requests", class: "num wide" }, { label: "In flight", class: "num wide" },
  { label: "Connections", class: "num wide" }, { label: "Memory", class: "num wide" },
  { label: "Loop lag", class: "num wide" }, { label: "Moved in", class: "num wide" },
  { label: "Moved out", class: "num wide" }, { label: "Handed on", class: "num wide" },
  { label: "Up", class: "num wide" }, { label: "Process", class: "num wide" },
];
const BADGES = {
  ready: ["good", "ready"], starting: ["info", "starting"], leaving: ["info", "leaving"],
  draining: ["warn", "draining"], unready: ["warn", "not ready"], silent: ["bad", "no answer"],
  down: ["bad", "down"],
};

/** A number with its share of a whole as a bar before it. */
class Share {
  constructor() {
    this.bar = h("i", { class: "share-bar" });
    this.value = h("b", { class: "share-value figure" });
    this.root = h("span", { class: "share" }, h("span", { class: "share-track", "aria-hidden": "true" }, this.bar), this.value);
  }

  update(share, shown, value) {
    this.bar.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
    figure(this.value, shown, value);
  }
}

function why(worker) {
  if (worker.state === "silent") return `silent for ${format.seconds(worker.answered_s)}`;
  if (worker.state === "unready") return worker.not_ready.join(", ");
  if (worker.restarts && worker.state !== "leaving") return `${format.count(worker.restarts)} restart${worker.restarts === 1 ? "" : "s"}`;
  return "";
}

export class Workers {
  constructor() {
    const made = table(COLUMNS, { class: "grid workers" });
    this.body = made.body;
    this.note = h("span", { class: "panel-note" });
    this.root = h("section", { class: "panel", hidden: true },
      h("header", { class: "panel-head" }, h("h2", {}, "Workers"), this.note), made.table);
  }

  update({ fleet }) {
    this.root.hidden = !fleet;
    if (!fleet) return;
    const { workers, slots, restarts } = fleet;
    const ready = workers.filter(({ state }) => state === "ready").length;
    text(this.note, `${ready} of ${slots} ready` +
      (restarts ? `, ${format.count(restarts)} restart${restarts === 1 ? "" : "s"} since start` : ""));
    const versions = new Set(workers.map(({ version }) => version).filter(Boolean));
    const most = Math.max(1, ...workers.map(({ sessions }) => sessions));
    follow(this.body, workers, (one) => one.number ?? `slot ${one.slot}`, () => this.#row(),
      (element, one) => this.#show(element, one, most, versions.size > 1));
  }

  #row() {
    const element = row(COLUMNS);
    element.cells[0].append(h("span", { class: "worker-name" }), h("span", { class: "quiet wide" }));
    element.cells[1].append(badge(), h("span", { class: "quiet wide worker-why" }));
    element.shares = [new Share(), new Share()];
    element.shares.forEach((share, index) => element.cells[index + 2].append(share.root));
    return element;
  }

  #show(element, one, most, isMixed) {
    const { cells, shares } = element;
    const isThere = one.number !== null;
    text(cells[0].firstChild, isThere ? one.number : "–");
    text(cells[0].lastChild, `${one.number === one.slot ? "" : ` in place ${one.slot}`}${isMixed && one.version ? ` ${one.version}` : ""}`);
    setBadge(cells[1].firstChild, BADGES[one.state] ?? ["warn", one.state]);
    text(cells[1].lastChild, why(one));
    element.classList.toggle("is-idle", one.state === "leaving" || one.state === "down");
    shares[0].update(one.sessions / most, isThere ? format.count(one.sessions) : "–", one.sessions);
    shares[1].update(one.cpu, isThere ? `${(one.cpu * 100).toFixed(0)} %` : "–", one.cpu);
    attr(cells[3], "title", "Of one processor");
    const values = [
      one.requests ? `${format.rate(one.requests)}/s` : "–", format.count(one.in_flight),
      format.count(one.connections), format.bytes(one.memory_bytes), format.seconds(one.lag_s),
      format.brief(one.moves_in), format.brief(one.moves_out), format.brief(one.handed_on),
      format.span(one.uptime_s), one.pid,
    ];
    values.forEach((value, index) => text(cells[index + 4], isThere ? value : "–"));
  }
}
