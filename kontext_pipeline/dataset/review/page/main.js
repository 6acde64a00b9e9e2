// The page: which row is shown, what is decided, and the keys.

import { askReason, showHelp } from "./dialogs.js";
import { bar, byId, count, element } from "./dom.js";
import { showFacts } from "./facts.js";
import { FilterBar } from "./filters.js";
import { percent, showOverview } from "./overview.js";
import { List, Rows } from "./rows.js";
import { OfflineSource, ServerSource } from "./source.js";
import { Viewer } from "./viewer.js";

const AHEAD = 2;
const NOT_PICKED = "another variant was picked";
const MESSAGE_MS = 6000;

class Page {
  constructor() {
    const data = byId("data");
    this.source = data ? new OfflineSource(JSON.parse(data.textContent)) : new ServerSource();
    this.position = 0;
    this.decided = new Map();
    this.history = [];
    this.saving = Promise.resolve();
    this.unsaved = 0;
    const decisionOf = (row) => this.decisionOf(row);
    const failed = (error) => this.tell(error.message);
    this.list = new List(this.source, { choose: (position) => this.choose(position), decisionOf, failed });
    this.viewer = new Viewer(this.source, { decisionOf, pick: (index) => this.pick(index), go: (row) => this.showRow(row) });
    this.filters = new FilterBar(() => this.filter());
  }

  async start() {
    this.summary = await this.source.summary();
    const name = this.summary.dataset.replace(/\/+$/, "").split("/").pop();
    document.title = `Review · ${name}`;
    byId("dataset").textContent = this.summary.note ?? this.summary.dataset;
    byId("dataset").title = this.summary.note ?? this.summary.dataset;
    this.filters.draw(this.summary.facets);
    this.filters.open(matchMedia("(min-width: 761px)").matches);
    this.drawCoverage();
    listen(this);
    this.filters.set({});
  }

  // Asks for the rows that pass the filters.
  async filter() {
    const asked = (this.asked = Symbol("view"));
    try {
      const view = await this.source.view(this.filters.values);
      if (asked !== this.asked) return;
      this.rows = new Rows(this.source, view, () => this.list.draw());
      this.list.show(this.rows);
      await this.choose(0);
    } catch (error) {
      this.tell(error.message);
    }
  }

  // Shows the row at a position. Rows that are there are shown before this function returns.
  choose(position) {
    document.body.classList.remove("listing");
    this.position = Math.max(0, Math.min(position, this.rows.total - 1));
    byId("position").textContent = this.rows.total ? `${count(this.position + 1)} / ${count(this.rows.total)}` : "0";
    if (!this.rows.total) {
      this.row = null;
      this.viewer.show(null, []);
      this.drawFacts();
      this.drawButtons();
      return undefined;
    }
    this.list.select(this.position);
    const row = this.rows.at(this.position);
    if (row) return this.showRow(row);
    const wanted = this.position;
    return this.rows.load(wanted).then(
      (loaded) => {
        if (wanted === this.position && loaded) this.showRow(loaded);
      },
      (error) => (error.status === 410 ? this.filter() : this.tell(error.message)),
    );
  }

  showRow(row) {
    this.row = row;
    const known = this.viewer.variants.some((one) => one.n === row.n) ? this.viewer.variants : [];
    this.viewer.show(row, row.variants.length ? known : []);
    this.drawFacts();
    this.drawButtons();
    if (row.variants.length && !known.length) this.loadVariants(row);
    for (let step = 1; step <= AHEAD; step += 1) {
      if (this.position + step < this.rows.total) this.rows.load(this.position + step).then((next) => this.viewer.preload(next), () => {});
    }
  }

  async loadVariants(row) {
    try {
      const variants = await this.source.numbered(row.variants);
      if (row === this.row && variants.length > 1) this.viewer.show(row, variants);
    } catch (error) {
      this.tell(error.message);
    }
  }

  drawFacts() {
    if (!this.row) return showFacts(null);
    return showFacts(this.row, this.decisionOf(this.row), (number) => this.showNumber(number));
  }

  // Shows a row that the list may not have.
  async showNumber(number) {
    try {
      const [row] = await this.source.numbered([number]);
      if (row) this.showRow(row);
    } catch (error) {
      this.tell(error.message);
    }
  }

  decisionOf(row) {
    return this.decided.get(row.fingerprint) ?? row;
  }

  keep() {
    if (this.row?.output) this.decide([this.decision(this.row, "keep", "")], true);
  }

  async reject() {
    const { row } = this;
    if (!row?.output) return;
    const reason = await askReason(this.summary.coverage.rejected_by_reason);
    if (reason !== null) this.decide([this.decision(row, "reject", reason)], true);
  }

  // Keeps one variant of the row and rejects the others.
  pick(index) {
    const { variants } = this.viewer;
    const picked = variants[index];
    if (!picked?.output) return;
    const others = variants.filter((one) => one.output && one.fingerprint !== picked.fingerprint);
    const last = Math.max(...variants.map((one) => one.n));
    this.decide([this.decision(picked, "keep", ""), ...others.map((one) => this.decision(one, "reject", NOT_PICKED))], false);
    // The next row that is no variant of this one.
    let next = this.position + 1;
    while (next < this.rows.total && this.rows.at(next)?.variants.includes(last)) next += 1;
    if (next < this.rows.total) this.choose(next);
  }

  decision(row, decision, reason) {
    return { fingerprint: row.fingerprint, decision, reason };
  }

  // Shows and records decisions; then the next row is shown.
  decide(decisions, advance) {
    const before = decisions.map(({ fingerprint }) => {
      const known = this.decided.get(fingerprint) ?? this.find(fingerprint);
      return { fingerprint, decision: known?.decision ?? "", reason: known?.reason ?? "" };
    });
    this.history.push({ before, position: this.position });
    this.apply(decisions);
    if (advance && this.position + 1 < this.rows.total) this.choose(this.position + 1);
  }

  find(fingerprint) {
    return [this.row, ...this.viewer.variants].find((row) => row?.fingerprint === fingerprint);
  }

  undo() {
    const last = this.history.pop();
    if (!last) return;
    this.apply(last.before);
    this.choose(last.position);
  }

  apply(decisions) {
    for (const one of decisions) this.decided.set(one.fingerprint, { ...one, reviewer: this.summary.reviewer });
    this.list.mark(new Set(decisions.map((one) => one.fingerprint)));
    this.viewer.drawStrip();
    if (this.viewer.mode === "grid") this.viewer.show(this.row, this.viewer.variants);
    this.drawFacts();
    this.drawButtons();
    this.save(decisions);
  }

  // Records decisions, each after the one before.
  save(decisions) {
    this.unsaved += 1;
    this.drawSaved("saving …");
    this.saving = this.saving.then(async () => {
      for (;;) {
        try {
          this.summary.coverage = await this.source.decide(decisions);
          this.unsaved -= 1;
          this.drawCoverage();
          if (!this.unsaved) this.drawSaved(this.source.offline ? "" : "saved");
          return;
        } catch (error) {
          this.drawSaved(`not saved (${this.unsaved})`, true);
          this.tell(`${error.message} Your decisions are kept in this page and sent again until they are saved.`);
          await new Promise((resume) => setTimeout(resume, 3000));
        }
      }
    });
  }

  drawSaved(text, failed = false) {
    byId("saved").textContent = text;
    byId("saved").classList.toggle("failed", failed);
  }

  drawCoverage() {
    const { coverage } = this.summary;
    byId("coverage").replaceChildren(
      bar(coverage.kept, coverage.rejected, coverage.pictures),
      element("span", { text: `${percent(coverage)} %` }),
      element("span", { class: "kept-text", text: `✓ ${count(coverage.kept)}` }),
      element("span", { class: "rejected-text", text: `✕ ${count(coverage.rejected)}` }),
    );
    byId("download").hidden = !this.source.offline || !this.source.made.length;
  }

  drawButtons() {
    const decision = this.row ? this.decisionOf(this.row).decision : "";
    byId("keep").classList.toggle("on", decision === "keep");
    byId("reject").classList.toggle("on", decision === "reject");
    byId("keep").disabled = byId("reject").disabled = !this.row?.output;
    byId("undo").disabled = !this.history.length;
  }

  async overview() {
    try {
      this.summary = await this.source.summary();
      this.drawCoverage();
      showOverview(this.summary, { filter: (values) => this.filters.set(values) });
    } catch (error) {
      this.tell(error.message);
    }
  }

  download() {
    const reviewer = prompt("Your name, for the column reviewer:", "");
    if (reviewer === null) return;
    const url = URL.createObjectURL(new Blob([this.source.csv(reviewer)], { type: "text/csv" }));
    element("a", { href: url, download: "review.csv" }).click();
    this.downloaded = this.source.made.length;
  }

  tell(text) {
    const box = byId("message");
    box.textContent = text;
    box.hidden = false;
    clearTimeout(this.telling);
    this.telling = setTimeout(() => (box.hidden = true), MESSAGE_MS);
  }
}

function listen(page) {
  const step = (by) => () => page.choose(page.position + by);
  const mode = (name) => () => {
    page.viewer.setMode(name);
    page.viewer.drawStrip();
  };
  const keys = {
    k: () => page.keep(),
    r: () => page.reject(),
    u: () => page.undo(),
    n: step(1),
    ArrowRight: step(1),
    ArrowDown: step(1),
    " ": step(1),
    p: step(-1),
    ArrowLeft: step(-1),
    ArrowUp: step(-1),
    PageDown: step(10),
    PageUp: step(-10),
    Home: () => page.choose(0),
    End: () => page.choose(page.rows.total - 1),
    b: mode("side"),
    s: mode("slider"),
    d: mode("difference"),
    v: mode("grid"),
    "[": () => page.viewer.moveSplit(-5),
    "]": () => page.viewer.moveSplit(5),
    "/": () => page.filters.focusText(),
    f: () => page.filters.open(byId("filters").hidden),
    o: () => page.overview(),
    "?": showHelp,
    h: showHelp,
  };
  for (let digit = 1; digit <= 9; digit += 1) keys[digit] = () => page.pick(digit - 1);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    // A dialog that was just closed may still have the focus.
    const field = event.target.closest("#filters input, #filters select");
    if (field && event.key === "Escape") field.blur();
    const action = keys[event.key];
    // A button that has the focus takes the space for itself.
    if (field || !action || !page.rows || (event.key === " " && event.target.closest("button"))) return;
    event.preventDefault();
    action();
  });
  const buttons = {
    previous: keys.p,
    next: keys.n,
    keep: keys.k,
    reject: keys.r,
    undo: keys.u,
    download: () => page.download(),
    "open-overview": keys.o,
    "open-help": showHelp,
    "open-list": () => {
      document.body.classList.toggle("listing");
      page.list.select(page.position);
    },
  };
  for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
  for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", mode(button.dataset.mode));
  window.addEventListener("beforeunload", (event) => {
    const lost = page.source.offline ? page.source.made.length > (page.downloaded ?? 0) : page.unsaved > 0;
    if (lost) event.preventDefault();
  });
}

const page = new Page();
page.start().catch((error) => page.tell(error.message));
