// The few pictures of the console, drawn on a grid of 20.

import { svg } from "./dom.js";

const PATHS = {
  overview: "M3 16h14 M5 16v-4 M8.5 16V6 M12 16v-7 M15.5 16V3.5",
  sessions: "M3 5h14 M3 10h14 M3 15h9",
  upstreams: "M10 3v6 M10 9l-5 4v3 M10 9l5 4v3 M8 3h4 M3.5 16h3 M13.5 16h3",
  routes: "M3 5h5l4 10h5 M12 5h5 M14.5 12.5 17 15l-2.5 2.5 M14.5 2.5 17 5l-2.5 2.5",
  config: "M3 6h8 M15 6h2 M3 14h2 M9 14h8 M13 4v4 M7 12v4",
  light: "M10 6.5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 0 1 0-7 M10 1.5v2 M10 16.5v2 M1.5 10h2 M16.5 10h2 M4 4l1.4 1.4 M14.6 14.6 16 16 M4 16l1.4-1.4 M14.6 5.4 16 4",
  dark: "M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z",
  copy: "M7 7h9v9H7z M4 13V4h9",
};

export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true" },
    svg("path", { d: PATHS[name] }));
}
