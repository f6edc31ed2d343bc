// Routes: which service answers which action.

import { ApiError, get } from "../api.js";
import { h } from "../dom.js";
import { anything } from "../format.js";

/** A table of whatever columns a list of objects has. */
export function listing(items) {
  const names = [...new Set(items.flatMap((item) => Object.keys(item)))];
  const title = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
  return h("table", { class: "grid" },
    h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, title(name))))),
    h("tbody", {}, items.map((item) => h("tr", {}, names.map((name) =>
      h("td", { class: typeof item[name] === "number" ? "num" : null }, anything(item[name])))))));
}

export class Routes {
  constructor() {
    this.content = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Routes" });
    this.root = h("div", { class: "stack" }, h("section", { class: "panel flush" }, this.content));
  }

  async start() {
    try {
      const routes = await get("routes");
      const items = Array.isArray(routes) ? routes : routes.routes;
      this.content.replaceChildren(items.length ? listing(items)
        : h("p", { class: "empty" }, "No routes are configured: no request finds a service."));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.content.replaceChildren(h("p", { class: "empty bad" }, error.message));
    }
  }
}
