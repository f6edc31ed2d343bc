// Elements without a framework. Text goes in as text: nothing that a user says becomes HTML.

// What turns the direction of text or is not seen at all: a name may not rewrite what is beside it.
const UNSEEN = /[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g;

function plain(value) {
  return String(value).replace(UNSEEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Make an HTML element; its children are elements or text. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null)
    .map((child) => (child instanceof Node ? child : plain(child))));
  return element;
}

/** Set an element's text if it differs. */
export function text(element, value) {
  const wanted = plain(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export const element = (id) => document.getElementById(id);
