// The filters. Each change asks for a new view of the rows; the address of the page keeps them.

import { byId, count, element } from "./dom.js";

export const FILTERS = ["batch", "status", "decision", "issue", "column", "value", "text", "order"];
const PAUSE_MS = 180;

export class FilterBar {
  constructor(changed) {
    this.changed = changed;
    this.form = byId("filters");
    this.button = byId("open-filters");
    this.button.addEventListener("click", () => this.open(this.form.hidden));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    const given = new URLSearchParams(location.search);
    this.values = Object.fromEntries(FILTERS.map((name) => [name, given.get(name) ?? ""]));
  }

  open(wanted) {
    this.form.hidden = !wanted;
    this.button.setAttribute("aria-expanded", String(wanted));
  }

  focusText() {
    this.open(true);
    this.form.querySelector("input").focus();
  }

  set(values) {
    Object.assign(this.values, values);
    this.#mark();
    this.#announce();
  }

  reset() {
    this.set(Object.fromEntries(FILTERS.map((name) => [name, ""])));
  }

  // Draws the filters that the dataset has values for.
  draw(facets) {
    this.form.replaceChildren(
      element("input", { type: "search", name: "text", placeholder: "Search ( / )", title: "Text in prompt, id or error", "aria-label": "Text", oninput: () => this.#typed() }),
      this.#select("batch", "All batches", Object.entries(facets.batches)),
      this.#select("status", "Any status", Object.entries(facets.statuses)),
      this.#select("decision", "Any decision", [["undecided"], ["keep"], ["reject"]]),
    );
    const issues = Object.entries(facets.issues);
    if (issues.length) this.form.append(this.#select("issue", "Any issues or none", [["any"], ...issues]));
    const columns = Object.entries(facets.columns);
    if (columns.length) this.form.append(this.#labels(columns));
    const orders = facets.orders.flatMap((name) => [[name, null, `${name} ↑`], [`-${name}`, null, `${name} ↓`]]);
    this.form.append(
      this.#select("order", "In the plan's order", orders),
      element("button", { type: "button", text: "Clear", onclick: () => this.reset() }),
    );
    this.#mark();
  }

  #select(name, all, options) {
    const made = element("select", { name, "aria-label": name }, element("option", { value: "", text: all }));
    for (const [value, number, text] of options) made.append(option(value, text ?? value, number));
    made.addEventListener("change", () => this.set({ [name]: made.value }));
    return made;
  }

  // One menu for the values of all columns: the place of a value in the menu says which column it is of.
  #labels(columns) {
    const made = element("select", { name: "label", "aria-label": "label" }, element("option", { value: "", text: "Any label" }));
    this.labels = [];
    for (const [column, values] of columns) {
      const group = element("optgroup", { label: column });
      for (const [value, number] of Object.entries(values)) {
        this.labels.push({ column, value });
        group.append(option(String(this.labels.length), `${column}: ${value}`, number));
      }
      made.append(group);
    }
    made.addEventListener("change", () => this.set(this.labels[Number(made.value) - 1] ?? { column: "", value: "" }));
    return made;
  }

  #typed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.set({ text: this.form.elements.text.value.trim() }), PAUSE_MS);
  }

  // Shows the values in the form, and how many filters are set.
  #mark() {
    const { values } = this;
    for (const field of this.form.elements) {
      if (!field.name) continue;
      if (field.name === "label") {
        const place = this.labels.findIndex((one) => one.column === values.column && one.value === values.value);
        field.value = values.column && place >= 0 ? String(place + 1) : "";
      } else if (document.activeElement !== field || field.name !== "text") {
        field.value = values[field.name];
      }
      field.classList.toggle("set", field.value !== "");
    }
    const set = FILTERS.filter((name) => values[name] && name !== "value").length;
    this.button.textContent = set ? `Filters (${set})` : "Filters";
    this.button.classList.toggle("set", set > 0);
  }

  #announce() {
    const set = FILTERS.filter((name) => this.values[name]).map((name) => [name, this.values[name]]);
    const query = new URLSearchParams(set).toString();
    if (location.protocol !== "file:") history.replaceState(null, "", query ? `?${query}` : location.pathname);
    this.changed(this.values);
  }
}

function option(value, text, number) {
  return element("option", { value, text: number === null || number === undefined ? text : `${text} (${count(number)})` });
}
