// The pictures of one row: side by side, under a slider, their difference, or all variants as a grid.

import { byId, element } from "./dom.js";
import { markOf } from "./rows.js";

const KEPT_PICTURES = 16;
const DIFFERENCE_PX = 900;
// A channel that differs by less is noise of compression, of 255.
const NOISE = 24;

// Decoded pictures, so that the next row is there before it is asked for.
class Pictures {
  constructor() {
    this.images = new Map();
  }

  get(url) {
    let image = this.images.get(url);
    if (image) this.images.delete(url);
    else {
      image = new Image();
      image.src = url;
    }
    this.images.set(url, image);
    if (this.images.size > KEPT_PICTURES) this.images.delete(this.images.keys().next().value);
    return image;
  }
}

export class Viewer {
  constructor(source, { decisionOf, pick, go }) {
    this.source = source;
    this.decisionOf = decisionOf;
    this.pick = pick;
    this.go = go;
    this.frame = byId("pictures");
    this.strip = byId("variants");
    this.pictures = new Pictures();
    this.mode = "side";
    this.split = 50;
    this.variants = [];
    this.#listenToPointer();
  }

  // Shows a row. `variants`: all rows of the manifest's row, or none where there is one only.
  show(row, variants) {
    this.row = row;
    this.variants = variants;
    this.#draw();
    this.drawStrip();
  }

  setMode(mode) {
    this.mode = mode === this.mode && mode === "grid" ? "side" : mode;
    this.#draw();
  }

  moveSplit(step) {
    this.#setSplit(this.split + step);
  }

  preload(row) {
    if (!row) return;
    for (const kind of ["output", "input"]) {
      const url = this.source.picture(row, kind);
      if (url) this.pictures.get(url);
    }
  }

  #draw() {
    const { row, frame } = this;
    for (const button of document.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === this.mode));
      button.disabled = button.dataset.mode !== "side" && (!row?.input || !row?.output);
    }
    frame.replaceChildren();
    frame.className = this.mode;
    if (!row) {
      frame.append(element("div", { class: "empty", text: "No row passes the filters." }));
      return;
    }
    if (this.mode === "grid" && this.variants.length) return this.#drawGrid();
    const both = row.input && row.output;
    frame.className = both ? (this.mode === "grid" ? "side" : this.mode) : row.output ? "side alone" : "side";
    if (both && this.mode === "difference") return this.#drawDifference();
    if (row.input) frame.append(this.#pane("input", row));
    if (row.output) frame.append(this.#pane("output", row));
    else this.#drawFailure();
    if (both && this.mode === "slider") {
      frame.querySelector(".pane.output").classList.add("clipped");
      frame.append(element("div", { class: "frame" }, element("div", { class: "handle" })));
      frame.append(this.#tag("input", "left"), this.#tag("output", "right"));
      this.#setSplit(this.split);
    } else if (row.input) {
      frame.querySelector(".pane.input").append(this.#tag("input", "left"));
      frame.querySelector(".pane.output")?.append(this.#tag("output", "left"));
    }
  }

  #tag(text, side) {
    return element("span", { class: `tag ${side}`, text });
  }

  #pane(kind, row) {
    const image = element("img", { alt: kind === "input" ? "Input picture" : "Generated picture" });
    const pane = element("div", { class: `pane ${kind}` }, image);
    const url = this.source.picture(row, kind);
    const full = this.pictures.get(url);
    if (full.complete) {
      image.src = url;
    } else {
      image.src = this.source.thumbnail(row, kind);
      full.decode().then(
        () => {
          image.src = url;
        },
        () => {
          image.remove();
          pane.append(element("div", { class: "words" }, element("p", { text: "This picture is missing or can't be read." })));
        },
      );
    }
    return pane;
  }

  #drawFailure() {
    const { row } = this;
    const words = {
      failed: "No picture: the request failed.",
      pending: "No picture yet: the request was not sent, or has no outcome.",
      unknown: "No picture: the answer was lost, and may have been charged.",
    };
    const box = element(
      "div",
      { class: "words" },
      element("b", { text: words[row.status] ?? "No picture." }),
      row.error ? element("p", { text: row.error }) : null,
      row.status_code ? element("span", { class: "dim", text: `HTTP ${row.status_code}` }) : null,
    );
    this.frame.append(element("div", { class: "pane output" }, box));
    if (!row.input) this.frame.classList.add("alone");
  }

  async #drawDifference() {
    const { row } = this;
    const urls = ["input", "output"].map((kind) => this.source.picture(row, kind));
    const images = urls.map((url) => this.pictures.get(url));
    const canvas = element("canvas");
    const tag = this.#tag("difference", "left");
    this.frame.append(element("div", { class: "pane" }, canvas, tag));
    try {
      await Promise.all(images.map((image) => image.decode()));
    } catch {
      tag.textContent = "A picture is missing or can't be read.";
      return;
    }
    const share = drawDifference(canvas, ...images);
    canvas.dataset.share = share.toFixed(4);
    tag.textContent = `difference · ${(100 * share).toFixed(1)} % of the pixels changed`;
  }

  #drawGrid() {
    this.variants.forEach((row, index) => {
      const decision = this.decisionOf(row).decision;
      const url = this.source.picture(row, "output");
      const choice = element(
        "button",
        { type: "button", class: `choice ${decision}`, onclick: () => this.pick(index), title: `Keep ${index + 1}, reject the others` },
        url ? element("img", { src: url, alt: `Variant ${row.variant}` }) : element("span", { class: "dim", text: row.status }),
        this.#tag(String(index + 1), "left"),
      );
      this.frame.append(choice);
    });
  }

  drawStrip() {
    this.strip.hidden = !this.variants.length || this.mode === "grid";
    this.strip.replaceChildren();
    if (this.strip.hidden) return;
    this.variants.forEach((row, index) => {
      const url = this.source.thumbnail(row, "output");
      const made = element(
        "button",
        { type: "button", class: row.n === this.row.n ? "variant current" : "variant", onclick: () => this.go(row), title: `Show variant ${row.variant}` },
        url ? element("img", { src: url, alt: `Variant ${row.variant}` }) : element("span", { class: "none", text: row.status }),
        element("span", { class: "number", text: String(index + 1) }),
        markOf(row, this.decisionOf(row).decision),
      );
      this.strip.append(made);
    });
    const compare = () => {
      this.setMode("grid");
      this.drawStrip();
    };
    const most = Math.min(9, this.variants.length);
    this.strip.append(element("button", { type: "button", class: "compare", onclick: compare }, "Compare ", element("kbd", { text: "v" })));
    this.strip.append(element("span", { class: "variants-hint", text: `1–${most} keeps one variant and rejects the others.` }));
  }

  #setSplit(percent) {
    this.split = Math.min(100, Math.max(0, percent));
    this.frame.style.setProperty("--split", `${this.split}%`);
  }

  #listenToPointer() {
    const move = (event) => {
      const box = this.frame.getBoundingClientRect();
      this.#setSplit((100 * (event.clientX - box.left - 12)) / (box.width - 24));
    };
    this.frame.addEventListener("pointerdown", (event) => {
      if (!this.frame.classList.contains("slider")) return;
      this.frame.setPointerCapture(event.pointerId);
      move(event);
    });
    this.frame.addEventListener("pointermove", (event) => {
      if (this.frame.hasPointerCapture(event.pointerId)) move(event);
    });
  }
}

// Draws the output in grey and, in warm colours, how much each pixel differs from the input, which is scaled and cropped to the
// output's shape. Returns the share of pixels that differ.
export function drawDifference(canvas, input, output) {
  const scale = Math.min(1, DIFFERENCE_PX / Math.max(output.naturalWidth, output.naturalHeight));
  const width = Math.max(1, Math.round(output.naturalWidth * scale));
  const height = Math.max(1, Math.round(output.naturalHeight * scale));
  const before = pixels(input, width, height);
  const after = pixels(output, width, height);
  let changed = 0;
  for (let i = 0; i < after.data.length; i += 4) {
    const difference = Math.max(
      Math.abs(after.data[i] - before.data[i]),
      Math.abs(after.data[i + 1] - before.data[i + 1]),
      Math.abs(after.data[i + 2] - before.data[i + 2]),
    );
    const grey = 0.35 * (0.3 * after.data[i] + 0.59 * after.data[i + 1] + 0.11 * after.data[i + 2]);
    const heat = difference > NOISE ? Math.min(1, difference / 160) : 0;
    if (heat) changed += 1;
    after.data[i] = grey + heat * (255 - grey);
    after.data[i + 1] = grey + heat * (heat * 190 - grey);
    after.data[i + 2] = grey * (1 - heat);
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(after, 0, 0);
  return changed / (width * height);
}

function pixels(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  return context.getImageData(0, 0, width, height);
}
