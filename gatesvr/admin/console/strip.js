// A session's order drawn: what its client has, what is on the way, what waits for an answer.

import { h, follow, text, attr } from "./dom.js";
import { count, seconds } from "./format.js";

const BEHIND = 6; // acked positions shown for the eye to start from
const KINDS = [
  ["acked", "Acknowledged"],
  ["flight", "In flight"],
  ["queued", "Not yet sent"],
  ["open", "Open slot"],
  ["waiting", "Filled, waits its turn"],
];

/** Positions of a session's order, left to right: {kind, label}. */
function positions({ acked, sent, next, waiting, open_slots: open }) {
  const list = [];
  const seq = (number, kind) => list.push({ kind, key: `q${number}`, label: `seq ${count(number)}` });
  for (let number = Math.max(1, acked - BEHIND + 1); number <= acked; number += 1) seq(number, "acked");
  for (let number = acked + 1; number <= sent; number += 1) seq(number, "flight");
  for (let number = sent + 1; number < next; number += 1) seq(number, "queued");
  const slots = [
    ...waiting.map((slot) => ({ slot, kind: "waiting", label: `slot ${count(slot)}, filled` })),
    ...open.map(({ slot, action, age_s: age }) => ({
      slot, kind: "open", action,
      label: `slot ${count(slot)}, ${action || "no action"}, open for ${seconds(age)}`,
    })),
  ].sort((one, other) => one.slot - other.slot);
  for (const slot of slots) list.push({ ...slot, key: `s${slot.slot}` });
  return list;
}

/** Several positions of one kind to a cell where there are more than fit. */
function cells(list, room) {
  const size = Math.max(1, Math.ceil(list.length / room));
  if (size === 1) return [list, 1];
  const grouped = [];
  for (let from = 0; from < list.length;) {
    let to = from + 1;
    while (to < list.length && to - from < size && list[to].kind === list[from].kind) to += 1;
    const [first, last] = [list[from], list[to - 1]];
    grouped.push({ ...first, label: to - from > 1 ? `${first.label} to ${last.label}` : first.label });
    from = to;
  }
  return [grouped, size];
}

/** The strip with its legend. */
export class Strip {
  constructor() {
    this.counts = new Map();
    const legend = KINDS.map(([kind, label]) => {
      const value = h("b", { class: "figure" }, "–");
      this.counts.set(kind, value);
      return h("span", { class: "legend-item" }, h("i", { class: `cell ${kind}` }), label, value);
    });
    this.cells = h("div", { class: "strip-cells", role: "img" });
    this.marks = h("div", { class: "strip-marks" });
    this.scale = h("span", { class: "strip-scale" });
    this.root = h("section", { class: "panel" },
      h("header", { class: "panel-head" }, h("h2", {}, "Order"), this.scale),
      h("div", { class: "strip" }, this.cells, this.marks),
      h("div", { class: "legend strip-legend" }, legend));
  }

  update(sequence) {
    const list = positions(sequence);
    const [shown, size] = cells(list, Math.max(20, Math.floor(this.cells.clientWidth / 13)));
    follow(this.cells, shown, (cell) => cell.key, () => h("i"), (element, cell) => {
      attr(element, "class", `cell ${cell.kind}`);
      attr(element, "title", cell.label);
    });
    for (const [kind, value] of this.counts) {
      const number = {
        acked: sequence.acked, flight: sequence.sent - sequence.acked, queued: sequence.unsent,
        open: sequence.open_count - sequence.waiting_count, waiting: sequence.waiting_count,
      }[kind];
      text(value, count(number));
      attr(value, "data-value", number);
    }
    attr(this.cells, "aria-label",
      `Acknowledged up to ${sequence.acked}, sent up to ${sequence.sent}, next is ${sequence.next}, ` +
      `${sequence.open_count - sequence.waiting_count} slots open, ${sequence.waiting_count} waiting`);
    text(this.scale, size > 1 ? `up to ${size} positions a cell` : "");
    const marks = [
      ["acked", sequence.acked], ["sent", sequence.sent], ["next", sequence.next],
      ["oldest open", sequence.open_slots[0]
        ? `${sequence.open_slots[0].action || "slot"} · ${seconds(sequence.open_slots[0].age_s)}` : "none"],
    ];
    follow(this.marks, marks, ([name]) => name,
      ([name]) => h("span", {}, name, h("b", { class: "figure" })),
      (element, [name, value]) => {
        text(element.lastChild, typeof value === "number" ? count(value) : value);
        attr(element.lastChild, "data-field", `sequence.${name}`);
        attr(element.lastChild, "data-value", value);
      });
  }
}
