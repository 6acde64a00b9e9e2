// The rows of one view, page by page as they are needed, and the windowed list that shows them.

import { byId, count, element } from "./dom.js";

const ROW_PX = 60;
const MARGIN_ROWS = 8;

// The rows of a view. `at` answers at once; `load` fetches the page of a row where it is missing.
export class Rows {
  constructor(source, view, onload) {
    this.source = source;
    this.total = view.total;
    this.view = view.view;
    this.onload = onload;
    this.pages = new Map([[0, view.rows]]);
    this.loading = new Map();
  }

  at(position) {
    const size = this.source.pageSize;
    return this.pages.get(Math.floor(position / size))?.[position % size] ?? null;
  }

  async load(position) {
    const number = Math.floor(position / this.source.pageSize);
    if (position < 0 || position >= this.total || this.pages.has(number)) return this.at(position);
    if (!this.loading.has(number)) {
      const fetched = this.source.rows(this.view, number * this.source.pageSize);
      this.loading.set(number, fetched.finally(() => this.loading.delete(number)));
      this.pages.set(number, await this.loading.get(number));
      this.onload();
    } else {
      await this.loading.get(number);
    }
    return this.at(position);
  }
}

const MARKS = { keep: "✓", reject: "✕" };

// Returns the mark of a row: its decision, or that there is no picture.
export function markOf(row, decision) {
  if (decision) return element("span", { class: `mark ${decision}`, text: MARKS[decision], title: decision });
  if (row.status === "succeeded") return element("span", { class: "mark" });
  return element("span", { class: "mark failed", text: "!", title: row.status });
}

// The list. Only the rows in sight are in the document.
export class List {
  constructor(source, { choose, decisionOf, failed }) {
    this.source = source;
    this.choose = choose;
    this.decisionOf = decisionOf;
    this.failed = failed;
    this.frame = byId("list");
    this.body = byId("list-rows");
    this.shown = new Map();
    this.current = 0;
    this.frame.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  show(rows) {
    this.rows = rows;
    this.clear();
    this.body.style.height = `${rows.total * ROW_PX}px`;
    this.frame.scrollTop = 0;
    this.frame.setAttribute("aria-label", `${count(rows.total)} rows`);
    this.draw();
  }

  clear() {
    for (const made of this.shown.values()) made.remove();
    this.shown.clear();
  }

  // Marks the rows in sight whose decision has changed.
  mark(fingerprints) {
    for (const [position, made] of this.shown) {
      const row = this.rows.at(position);
      if (fingerprints.has(row.fingerprint)) made.lastChild.replaceWith(markOf(row, this.decisionOf(row).decision));
    }
  }

  select(position) {
    this.shown.get(this.current)?.classList.remove("current");
    this.current = position;
    const top = position * ROW_PX;
    const { scrollTop, clientHeight } = this.frame;
    if (top < scrollTop + ROW_PX) this.frame.scrollTop = Math.max(0, top - ROW_PX);
    else if (top + 2 * ROW_PX > scrollTop + clientHeight) this.frame.scrollTop = top + 2 * ROW_PX - clientHeight;
    this.draw();
    this.shown.get(position)?.classList.add("current");
  }

  draw() {
    if (!this.rows) return;
    const first = Math.max(0, Math.floor(this.frame.scrollTop / ROW_PX) - MARGIN_ROWS);
    const visible = Math.ceil(this.frame.clientHeight / ROW_PX);
    const last = Math.min(this.rows.total, first + visible + 2 * MARGIN_ROWS);
    for (const [position, made] of this.shown) {
      if (position < first || position >= last) {
        made.remove();
        this.shown.delete(position);
      }
    }
    if (!visible) return;
    for (let position = first; position < last; position += 1) {
      if (this.shown.has(position)) continue;
      const row = this.rows.at(position);
      if (!row) {
        this.rows.load(position).catch(this.failed);
        continue;
      }
      const made = this.#row(row, position);
      this.shown.set(position, made);
      this.body.append(made);
    }
  }

  #row(row, position) {
    const made = element(
      "div",
      { class: position === this.current ? "row current" : "row", onclick: () => this.choose(position) },
      this.#thumbnail(row, "input"),
      this.#thumbnail(row, "output"),
      element(
        "div",
        { class: "text" },
        element("div", { class: "id", text: row.variant > 1 ? `${row.id} · ${row.variant}` : row.id }),
        element("div", { class: "prompt", text: row.prompt }),
      ),
      markOf(row, this.decisionOf(row).decision),
    );
    made.style.transform = `translateY(${position * ROW_PX}px)`;
    return made;
  }

  #thumbnail(row, kind) {
    const url = this.source.thumbnail(row, kind);
    return url ? element("img", { src: url, alt: "", decoding: "async" }) : element("div", { class: "none" });
  }
}
