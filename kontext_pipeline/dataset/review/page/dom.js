// Elements made from names and texts. Text from outside becomes text nodes alone, never HTML.

const SVG = "http://www.w3.org/2000/svg";

// Returns the element with this id.
export function byId(id) {
  return document.getElementById(id);
}

// Returns a new element. `attributes`: `class`, `text`, event handlers such as `onclick`, and any attribute.
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// Returns a new element of an SVG picture.
export function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function usd(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(2)} USD`;
}

export function seconds(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

export function count(value) {
  return value.toLocaleString("en");
}

// Returns a number with three digits that count.
export function measure(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(3)));
}

// A bar of two parts.
export function bar(kept, rejected, all) {
  const share = (part) => `${all ? (100 * part) / all : 0}%`;
  const made = element("span", { class: "bar" }, element("i", { class: "kept" }), element("i", { class: "rejected" }));
  made.children[0].style.width = share(kept);
  made.children[1].style.width = share(rejected);
  return made;
}
