// A state as a shape and a word: a dot is good, a triangle a warning, a diamond bad.

import { attr, h, text } from "./dom.js";

/** Make an empty badge. */
export function badge() {
  return h("span", { class: "badge" });
}

/** Show a kind (good, warn, bad, info) and its word. */
export function setBadge(element, [kind, word]) {
  attr(element, "class", `badge ${kind}`);
  text(element, word);
}

/** Kind and word of a session's state. */
export function stateBadge(state) {
  return [{ normal: "good", suspended: "warn", inited: "info" }[state] ?? "bad", state];
}
