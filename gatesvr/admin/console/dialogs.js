// Questions before something changes, and short words on how it went.

import { ApiError } from "./api.js";
import { h } from "./dom.js";

/** Say something that goes by itself. */
export function toast(message, kind = "plain") {
  const box = h("div", { class: `toast ${kind}` }, message);
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), kind === "bad" ? 8000 : 4000);
}

/**
 * Ask in a dialog, and act on the answer while it is open, so that an error can be shown in it.
 *
 * @param options title, lines (of text), fields ({name, label, value, kind, options, word, hint}),
 *   action (the button's name), isDanger, act(values): its promise closes the dialog.
 */
export function ask({ title, lines = [], fields = [], action, isDanger = false, act }) {
  const opener = document.activeElement;
  const error = h("p", { class: "dialog-error", role: "alert" });
  const inputs = new Map();
  const labels = fields.map((field) => {
    const props = {
      name: field.name, id: `field-${field.name}`, placeholder: field.placeholder,
      autocomplete: "off", required: field.isRequired, pattern: field.word, autofocus: field.isFirst,
    };
    let input;
    if (field.kind === "area") input = h("textarea", { ...props, rows: 4, spellcheck: "false" });
    else if (field.kind === "select") {
      input = h("select", props, field.options.map(([value, label]) => h("option", { value }, label)));
    } else input = h("input", { ...props, type: field.kind ?? "text", min: field.min, step: "any" });
    if (field.value !== undefined) input.value = field.value;
    inputs.set(field.name, input);
    return h("label", { class: "field" }, h("span", {}, field.label), input,
      field.hint ? h("small", {}, field.hint) : null);
  });
  const submit = h("button", { class: isDanger ? "button danger" : "button primary", type: "submit" }, action);
  const cancel = h("button", { class: "button", type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", {}, h("h2", { id: "dialog-title" }, title),
    lines.map((line) => h("p", {}, line)), labels, error,
    h("div", { class: "dialog-buttons" }, cancel, submit));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    error.textContent = "";
    try {
      await act(Object.fromEntries([...inputs].map(([name, input]) => [name, input.value])));
      dialog.close();
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      error.textContent = failure.message;
    } finally {
      submit.disabled = false;
    }
  });
  show(dialog, opener);
}

/** Show something in a dialog that has nothing to ask. */
export function tell(title, ...content) {
  const opener = document.activeElement;
  const close = h("button", { class: "button", type: "button", autofocus: true, onclick: () => dialog.close() }, "Close");
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
    h("h2", { id: "dialog-title" }, title), content, h("div", { class: "dialog-buttons" }, close));
  show(dialog, opener);
}

function show(dialog, opener) {
  dialog.addEventListener("close", () => {
    dialog.remove();
    opener?.focus?.();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  document.body.append(dialog);
  dialog.showModal();
}
