// Elements without a framework: make them once, then change only what differs.

const SVG = "http://www.w3.org/2000/svg";

// What turns the direction of text or is not seen at all: a client's name may not rewrite what
// stands beside it, such as the question whether to kick it.
const UNSEEN = /[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g;

function plain(value) {
  return String(value).replace(UNSEEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined)
    .map((child) => (typeof child === "string" ? plain(child) : child)));
  return element;
}

/** Make an HTML element; a prop named on… is a listener, every other one an attribute. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** Make an SVG element. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Set an element's text if it differs. */
export function text(element, value) {
  const wanted = plain(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Set or remove an attribute if it differs. */
export function attr(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Show a number: its text for readers, its exact value for whoever compares. */
export function figure(element, shown, value) {
  text(element, shown);
  attr(element, "data-value", value);
}

/**
 * Make a parent's children follow a list: one child for each item, found again by key, so that a
 * focused or hovered row stays the same element.
 */
export function follow(parent, items, key, make, update) {
  const known = new Map();
  for (const child of parent.children) known.set(child.dataset.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = known.get(name);
    if (child) known.delete(name);
    else {
      child = make(item);
      child.dataset.key = name;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

/** Make a table: columns are {label, class, sort}; its rows go into the tbody that is returned. */
export function table(columns, props = {}) {
  const head = h("tr", {}, columns.map((column) =>
    h("th", { scope: "col", class: column.class }, column.head ?? column.label)));
  const body = h("tbody");
  return { table: h("table", props, h("thead", {}, head), body), body };
}

/** Make a table's row of cells, one a column. */
export function row(columns, props = {}) {
  return h("tr", props, columns.map((column) => h("td", { class: column.class })));
}
