// The frame around the views: which one is shown, keys, theme, state of the connection, login.

import { post } from "./api.js";
import { ask, tell, toast } from "./dialogs.js";
import { attr, follow, h, text } from "./dom.js";
import { span } from "./format.js";
import { icon } from "./icons.js";
import { store } from "./store.js";
import { Overview } from "./views/overview.js";
import { Sessions } from "./views/sessions.js";
import { Session } from "./views/session.js";
import { Upstreams } from "./views/upstreams.js";
import { Routes } from "./views/routes.js";
import { Config } from "./views/config.js";

const VIEWS = [
  { path: "", name: "Overview", key: "o", icon: "overview", View: Overview },
  { path: "sessions", name: "Sessions", key: "s", icon: "sessions", View: Sessions },
  { path: "upstreams", name: "Upstreams", key: "u", icon: "upstreams", View: Upstreams },
  { path: "routes", name: "Routes", key: "r", icon: "routes", View: Routes },
  { path: "config", name: "Configuration", key: "c", icon: "config", View: Config },
];
const KEYS = [
  [["g", "o"], "Overview"], [["g", "s"], "Sessions"], [["g", "u"], "Upstreams"],
  [["g", "r"], "Routes"], [["g", "c"], "Configuration"], [["/"], "Search sessions"],
  [["j"], "Next row"], [["k"], "Previous row"], [["Enter"], "Open the row"],
  [["["], "Previous page"], [["]"], "Next page"], [["t"], "Light or dark"], [["?"], "These keys"],
  [["x"], "Kick this session"], [["p"], "Push to this session"], [["e"], "Trace this session"],
  [["Esc"], "Back to the list"],
];
const STATES = {
  connecting: ["Connecting", "is-waiting"],
  live: ["Live", "is-live"],
  reconnecting: ["Reconnecting", "is-waiting"],
  login: ["Logged out", "is-waiting"],
};
const root = document.documentElement;
const element = (id) => document.getElementById(id);
const links = new Map();
let current = null;

/** Undo the encoding of a part of the address; somebody may have written it by hand. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Read the address: the view's path, what follows it, and the query. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decoded);
  return { name, rest, query: new URLSearchParams(query) };
}

function open() {
  const { name, rest, query } = route();
  const entry = VIEWS.find((view) => view.path === name) ?? VIEWS[0];
  const View = name === "sessions" && rest[0] ? Session : entry.View;
  current?.destroy?.();
  element("view").replaceChildren();
  current = new View({ id: rest[0], query, setTitle });
  setTitle(entry.name);
  element("view").append(current.root);
  current.start?.();
  if (store.overview) current.update?.(store.overview);
  for (const [path, link] of links) attr(link, "aria-current", path === entry.path ? "page" : null);
  scrollTo(0, 0);
}

function setTitle(title) {
  text(element("title"), title);
  document.title = title === "Overview" ? "GateSvr" : `${title} · GateSvr`;
}

function makeNav() {
  for (const view of VIEWS) {
    const link = h("a", { href: `#/${view.path}`, title: `${view.name} (g ${view.key})` },
      icon(view.icon), h("span", {}, view.name));
    links.set(view.path, link);
    element("nav").append(link);
  }
}

function showFacts() {
  const overview = store.overview;
  const { fleet } = overview;
  const ready = fleet?.workers.filter(({ state }) => state === "ready").length;
  const facts = [
    ["Version", overview.version], ["QUIC", overview.backend],
    ...(fleet ? [["Workers", `${ready} of ${fleet.slots}`]] : []),
    [fleet ? "Supervisor" : "Process", overview.pid], ["Up", span(overview.uptime_s)],
  ];
  root.classList.toggle("has-fleet", Boolean(fleet));
  follow(element("facts"), facts, ([name]) => name,
    ([name]) => h("div", {}, h("dt", {}, name), h("dd", { class: "figure" })),
    (item, [, value]) => text(item.lastChild, value));
}

function showState() {
  const [label, className] = STATES[store.state];
  text(element("link-state"), label);
  attr(element("link-state"), "class", `link-state ${className}`);
  root.classList.toggle("is-stale", store.state === "reconnecting");
  if (store.state === "login") askToken();
}

function askToken() {
  if (document.querySelector("dialog[open]")) return;
  ask({
    title: "Log in",
    lines: ["This gateway asks for its admin token: admin.token of its configuration."],
    fields: [{ name: "token", label: "Token", kind: "password", isRequired: true, isFirst: true }],
    action: "Log in",
    async act({ token }) {
      await post("login", { token });
      store.retry();
      open();
    },
  });
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  const other = isDark() ? "light" : "dark";
  element("theme").replaceChildren(icon(other));
  attr(element("theme"), "aria-label", `Switch to ${other}`);
  attr(element("theme"), "title", `Switch to ${other} (t)`);
  window.dispatchEvent(new Event("gatesvr:theme"));
}

function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("gatesvr.theme", root.dataset.theme);
  showTheme();
}

function showKeys() {
  tell("Keys", h("dl", { class: "keys" }, KEYS.map(([keys, what]) =>
    h("div", {}, h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, what)))));
}

function moveRow(step) {
  const rows = [...document.querySelectorAll("#view .row-link")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))].focus();
}

let isGo = 0;

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { key, target } = event;
  if (target.closest("input, textarea, select")) {
    if (key === "Escape") target.blur();
    return;
  }
  if (event.timeStamp - isGo < 1200) {
    isGo = 0;
    const view = VIEWS.find((one) => one.key === key);
    if (view) {
      location.hash = `#/${view.path}`;
      event.preventDefault();
      return;
    }
  }
  const actions = {
    g: () => { isGo = event.timeStamp; },
    "?": showKeys,
    t: switchTheme,
    j: () => moveRow(1),
    k: () => moveRow(-1),
    "/": () => {
      if (route().name !== "sessions" || route().rest[0]) location.hash = "#/sessions?focus=1";
      else current.focus?.();
    },
  };
  const action = current?.keys?.[key] ?? actions[key];
  if (!action) return;
  event.preventDefault();
  action();
}

makeNav();
element("theme").addEventListener("click", switchTheme);
element("keys").addEventListener("click", showKeys);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
addEventListener("keydown", press);
addEventListener("hashchange", open);
store.addEventListener("state", showState);
store.addEventListener("overview", () => {
  showFacts();
  attr(element("view"), "data-time", store.overview.time);
  current?.update?.(store.overview);
});
store.addEventListener("restarted", () => toast("The gateway was restarted."));
showTheme();
showState();
open();
store.start();
