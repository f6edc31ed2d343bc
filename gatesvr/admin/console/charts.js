// Charts over time (uPlot) and the small drawings beside figures (SVG).

import { h, svg, text } from "./dom.js";

const AXIS_WIDTH = 54;
const AXIS_HEIGHT = 22;

/** A colour of the theme in force, for a canvas, which knows no variables: `rgb(1, 2, 3)`. */
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** The same colour, see-through. */
function faint(name) {
  return colour(name).replace("rgb(", "rgba(").replace(")", ", 0.1)");
}

/** The next round number above: the top of an axis. */
function roundUp(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * size >= value) * size;
}

/** A line chart of the store's series, with its own legend. */
export class TimeChart {
  #plot = null;
  #top = 0;
  #data = [[]];
  #shownAt = null;
  #span = 300;

  /**
   * @param title Heading.
   * @param series List of {name, label, colour, isFilled, dash}.
   * @param format Function from value to text.
   * @param least The axis never ends below it.
   */
  constructor({ title, series, format, least }) {
    Object.assign(this, { series, format, least });
    this.values = series.map(() => h("b", { class: "figure" }, "–"));
    this.when = h("span", { class: "chart-when" });
    const legend = series.map((one, index) =>
      h("span", { class: "legend-item" },
        svg("svg", { class: "legend-line", viewBox: "0 0 18 8", "aria-hidden": "true" },
          svg("path", { d: "M1 4h16", class: one.class, "stroke-dasharray": one.dash?.join(" ") })),
        one.label, this.values[index]));
    this.canvas = h("div", { class: "chart-canvas", role: "img", "aria-label": `${title} over time` });
    this.root = h("section", { class: "panel chart" },
      h("header", { class: "panel-head" }, h("h2", {}, title), this.when,
        h("div", { class: "legend" }, legend)),
      this.canvas);
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.canvas);
    this.restyle = () => this.#rebuild();
    window.addEventListener("gatesvr:theme", this.restyle);
  }

  /**
   * Show the last seconds of these columns: times, then one list of values a series. The axis has
   * its whole length from the start, so that a young gateway's line grows from the right.
   */
  update(data, span) {
    this.#data = data;
    this.#span = span;
    if (!this.#plot) this.#rebuild();
    else this.#plot.setData(data);
    this.#showValues();
  }

  destroy() {
    this.observer.disconnect();
    window.removeEventListener("gatesvr:theme", this.restyle);
    this.#plot?.destroy();
  }

  #showValues() {
    const at = this.#shownAt ?? this.#data[0].length - 1;
    this.values.forEach((value, index) => text(value, this.format(this.#data[index + 1]?.[at])));
    const time = this.#shownAt === null ? null : this.#data[0][at];
    text(this.when, time ? new Date(time * 1000).toTimeString().slice(0, 8) : "");
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.#plot && width && height) this.#plot.setSize({ width, height });
  }

  // The top follows a rise at once and a fall only when it is large: a scale that breathes with
  // every second cannot be read.
  #range(max) {
    const wanted = roundUp(Math.max(max * 1.08, this.least));
    if (wanted > this.#top || wanted < this.#top * 0.45) this.#top = wanted;
    return [0, this.#top];
  }

  #rebuild() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !this.#data[0].length) return;
    this.#plot?.destroy();
    const ink = colour("--ink-3");
    const line = { stroke: colour("--line"), width: 1, dash: [] };
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: ink, font, ticks: { show: false } };
    this.#plot = new window.uPlot({
      width,
      height,
      padding: [8, 16, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        points: { size: 7, width: 2, stroke: (plot, index) => colour(this.series[index - 1].colour), fill: colour("--surface") },
        drag: { x: false, y: false },
        sync: { key: "gatesvr" },
      },
      scales: { x: { time: true, range: (plot, min, max) => [max - this.#span, max] }, y: { range: (plot, min, max) => this.#range(max ?? 0) } },
      axes: [
        { ...axis, size: AXIS_HEIGHT, gap: 4, space: 72, grid: { show: false },
          values: (plot, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, tick % 60 ? 8 : 5)) },
        { ...axis, size: AXIS_WIDTH, gap: 6, space: 34, grid: line,
          values: (plot, ticks) => ticks.map((tick) => (tick ? this.format(tick).replace(/(\.\d*?)0+(?!\d)/, "$1").replace(/\.(?!\d)/, "") : "0")) },
      ],
      series: [{}, ...this.series.map((one) => ({
        stroke: colour(one.colour),
        width: one.width ?? 1.6,
        dash: one.dash,
        fill: one.isFilled ? faint(one.colour) : undefined,
        points: { show: false },
      }))],
      hooks: {
        setCursor: [(plot) => {
          this.#shownAt = plot.cursor.idx ?? null;
          this.#showValues();
        }],
      },
    }, this.#data, this.canvas);
  }
}

/** A line without axes, for beside a figure. */
export class Spark {
  constructor(className) {
    this.area = svg("path", { class: "spark-area" });
    this.line = svg("path", { class: "spark-line" });
    this.root = svg("svg", { class: `spark ${className ?? ""}`, viewBox: "0 0 120 28",
      preserveAspectRatio: "none", "aria-hidden": "true" }, this.area, this.line);
  }

  update(values) {
    const known = values.filter((value) => value !== null);
    if (known.length < 2) {
      this.line.setAttribute("d", "M0 27H120");
      this.area.setAttribute("d", "");
      return;
    }
    const top = Math.max(...known) * 1.1 || 1;
    let path = "";
    let isDown = false;
    values.forEach((value, index) => {
      if (value === null) {
        isDown = false;
        return;
      }
      const x = ((index / (values.length - 1)) * 120).toFixed(1);
      const y = (27 - (value / top) * 26).toFixed(1);
      path += `${isDown ? "L" : "M"}${x} ${y}`;
      isDown = true;
    });
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", known.length === values.length ? `${path}L120 28L0 28Z` : "");
  }
}

const LADDER_FROM = -6; // 1 µs
const LADDER_TO = 1; // 10 s

/** Percentiles on one logarithmic scale of 1 µs to 10 s: a bar to p99, a line on to the largest. */
export class Ladder {
  constructor() {
    const decades = [];
    for (let decade = LADDER_FROM + 1; decade < LADDER_TO; decade += 1) {
      const x = this.#at(10 ** decade);
      decades.push(svg("line", { class: "ladder-grid", x1: x, x2: x, y1: 0, y2: 16 }));
    }
    this.rest = svg("line", { class: "ladder-rest", y1: 8, y2: 8 });
    this.bar = svg("rect", { class: "ladder-bar", y: 4.5, height: 7 });
    this.middle = svg("rect", { class: "ladder-middle", y: 2, height: 12, width: 0.8 });
    this.root = svg("svg", { class: "ladder", viewBox: "0 0 120 16", preserveAspectRatio: "none",
      "aria-hidden": "true" }, decades, this.rest, this.bar, this.middle);
  }

  #at(value) {
    const log = Math.log10(Math.max(value, 1e-9));
    return Math.min(120, Math.max(0, ((log - LADDER_FROM) / (LADDER_TO - LADDER_FROM)) * 120));
  }

  update({ count, p50, p99, max }) {
    this.root.classList.toggle("is-empty", !count);
    if (!count) return;
    const [from, to, end] = [this.#at(p50), this.#at(p99), this.#at(max)];
    this.bar.setAttribute("x", from);
    this.bar.setAttribute("width", Math.max(0.5, to - from));
    this.middle.setAttribute("x", from - 0.4);
    this.rest.setAttribute("x1", to);
    this.rest.setAttribute("x2", Math.max(to, end));
  }
}
