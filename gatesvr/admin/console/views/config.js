// Configuration: every setting in force, where it comes from, and a reload.

import { ApiError, get, post } from "../api.js";
import { ask, tell } from "../dialogs.js";
import { h } from "../dom.js";
import { anything } from "../format.js";

/** Ask, reload, and show what has changed. */
function askReload(after) {
  ask({
    title: "Reload the configuration?",
    lines: [
      "The gateway reads its files again and applies what can change while it runs.",
      "A configuration with a mistake changes nothing; connections are kept.",
    ],
    action: "Reload",
    async act() {
      const report = await post("reload");
      after();
      if (report.error) {
        tell("Nothing was changed", h("p", { class: "dialog-error" }, report.error));
        return;
      }
      const changes = report.changed.map((change) =>
        h("tr", {}, h("td", { class: "mono" }, change.name), h("td", { class: "mono" }, anything(change.old)),
          h("td", { class: "mono" }, anything(change.new))));
      tell(report.changed.length ? "Reloaded" : "Reloaded: nothing differs",
        changes.length ? h("table", { class: "grid" },
          h("thead", {}, h("tr", {}, ["Setting", "Was", "Is"].map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, changes)) : null,
        report.needs_restart.length
          ? h("p", {}, `Needs a restart: ${report.needs_restart.join(", ")}`) : null);
    },
  });
}

export class Config {
  constructor() {
    this.filter = h("input", { type: "search", placeholder: "Filter settings", "aria-label": "Filter settings",
      spellcheck: "false", oninput: () => this.#show() });
    this.changed = h("input", { type: "checkbox", onchange: () => this.#show() });
    this.content = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Settings" });
    this.settings = [];
    this.root = h("div", { class: "stack" },
      h("div", { class: "tools" }, this.filter,
        h("label", { class: "check" }, this.changed, "Only those that are set"),
        h("button", { class: "button end", type: "button", onclick: () => askReload(() => this.start()) }, "Reload…")),
      h("section", { class: "panel flush" }, this.content));
  }

  keys = { "/": () => this.filter.focus() };

  async start() {
    try {
      this.settings = (await get("config")).settings;
      this.#show();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.content.replaceChildren(h("p", { class: "empty bad" }, error.message));
    }
  }

  #show() {
    const wanted = this.filter.value.trim().toLowerCase();
    const found = this.settings.filter(({ name, value, origin }) =>
      `${name} ${anything(value)}`.toLowerCase().includes(wanted) &&
      !(this.changed.checked && (!origin || origin === "default")));
    const groups = Map.groupBy ? Map.groupBy(found, ({ name }) => name.split(".")[0]) : new Map([["", found]]);
    const rows = [...groups.values()].flatMap((settings) => settings.map(({ name, value, origin, restart }, index) =>
      h("tr", { class: index === 0 ? "group-start" : null },
        h("td", { class: "mono" }, name),
        h("td", { class: "mono value" }, anything(value)),
        h("td", { class: origin && origin !== "default" ? "origin" : "origin quiet" }, origin || "default"),
        h("td", { class: "quiet" }, restart ? "by restart" : "by reload"))));
    this.content.replaceChildren(rows.length
      ? h("table", { class: "grid settings" },
        h("thead", {}, h("tr", {}, ["Setting", "Value", "Origin", "Change"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows))
      : h("p", { class: "empty" }, "No setting matches."));
  }
}
