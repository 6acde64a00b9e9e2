// The overview: coverage, figures, and the plots of spend and latency.

import { bar, byId, count, element, seconds, svgElement, usd } from "./dom.js";

const WIDTH = 420;
const HEIGHT = 170;
const LEFT = 46;
const BOTTOM = 24;
const TOP = 10;

export function showOverview(summary, { filter }) {
  const dialog = byId("overview-dialog");
  const { coverage, figures } = summary;
  const choose = (values) => {
    dialog.close();
    filter(values);
  };
  const tiles = [
    ["pictures", count(figures.pictures)],
    ["rows", count(figures.rows)],
    ["reviewed", coverage.pictures ? `${percent(coverage)} %` : "–"],
    ["kept", count(coverage.kept)],
    ["rejected", count(coverage.rejected)],
    ["spent", usd(figures.cost_usd)],
  ];
  if (figures.possibly_charged_usd) tiles.push(["possibly charged", usd(figures.possibly_charged_usd)]);
  dialog.replaceChildren(
    element("h1", { text: "Overview", tabindex: "-1", autofocus: true }),
    element("div", { class: "tiles" }, ...tiles.map(([name, text]) => element("div", { class: "tile" }, element("b", { text }), element("span", { class: "dim", text: name })))),
    element(
      "div",
      { class: "plots" },
      element("div", {}, element("h2", { text: "Spend over time, USD" }), spendPlot(figures.spend)),
      element("div", {}, element("h2", { text: "Latency, seconds" }), latencyPlot(figures.latency)),
    ),
    element("h2", { text: "Rows by status" }),
    buttons(summary.facets.statuses, "status", choose),
  );
  if (Object.keys(summary.facets.issues).length) dialog.append(element("h2", { text: "Rows by issue" }), buttons(summary.facets.issues, "issue", choose));
  if (coverage.rejected) {
    const reasons = Object.entries(coverage.rejected_by_reason).sort((a, b) => b[1] - a[1]);
    dialog.append(element("h2", { text: "Rejected by reason" }), table(reasons.map(([reason, number]) => [reason || "no reason", count(number), bar(0, number, coverage.rejected)])));
  }
  dialog.append(
    element("h2", { text: "Coverage by batch" }),
    element(
      "div",
      { class: "scroll" },
      table(
        summary.by_batch.map((one) => [
          element("button", { type: "button", text: one.batch, onclick: () => choose({ batch: one.batch }) }),
          `${count(one.kept + one.rejected)} of ${count(one.pictures)}`,
          bar(one.kept, one.rejected, one.pictures),
        ]),
      ),
    ),
    element("p", {}, element("button", { type: "button", text: "Close", onclick: () => dialog.close() })),
  );
  dialog.showModal();
}

// Returns the share of pictures that are decided, in whole percent; 100 only where all are.
export function percent(coverage) {
  return coverage.pictures ? Math.floor((100 * (coverage.kept + coverage.rejected)) / coverage.pictures) : 0;
}

function buttons(counts, name, choose) {
  const made = Object.entries(counts).map(([value, number]) =>
    element("button", { type: "button", text: `${value} ${count(number)}`, onclick: () => choose({ [name]: value }) }),
  );
  return element("div", { class: "tiles" }, ...made);
}

function table(rows) {
  const made = rows.map(([first, number, last]) => element("tr", {}, element("td", {}, first), element("td", { class: "number", text: number }), element("td", {}, last)));
  return element("table", {}, element("tbody", {}, ...made));
}

function spendPlot(points) {
  if (!points.length) return element("p", { class: "dim", text: "Nothing was spent." });
  const times = points.map(([time]) => time);
  const [begin, end] = [times[0], Math.max(times[times.length - 1], times[0] + 1)];
  const most = Math.max(points[points.length - 1][1], 0.01);
  const x = (time) => LEFT + ((time - begin) / (end - begin)) * (WIDTH - LEFT - 8);
  const svg = frame(most, (value) => value.toFixed(most < 1 ? 2 : most < 20 ? 1 : 0));
  const corners = points.map(([time, sum]) => `${x(time).toFixed(1)},${y(sum, most).toFixed(1)}`);
  const base = HEIGHT - BOTTOM;
  svg.append(
    svgElement("path", { class: "area", d: `M${x(begin)},${base}L${corners.join("L")}L${x(times[times.length - 1])},${base}Z` }),
    svgElement("path", { class: "curve", d: `M${x(begin)},${base}L${corners.join("L")}` }),
    svgElement("text", { x: LEFT, y: HEIGHT - 6, text: clock(begin, end) }),
    svgElement("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end", text: clock(end, begin) }),
  );
  svg.setAttribute("aria-label", `Spend over time: ${usd(points[points.length - 1][1])} in all`);
  return svg;
}

function latencyPlot(latency) {
  if (!latency) return element("p", { class: "dim", text: "No answer came yet." });
  const { edges, counts } = latency;
  const most = Math.max(...counts, 1);
  const end = edges[edges.length - 1];
  const x = (value) => LEFT + (value / end) * (WIDTH - LEFT - 8);
  const svg = frame(most, (value) => (Number.isInteger(value) ? count(value) : ""));
  counts.forEach((number, i) => {
    const top = y(number, most);
    svg.append(svgElement("rect", { class: "column", x: x(edges[i]) + 0.5, y: top, width: Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 1), height: HEIGHT - BOTTOM - top }));
  });
  for (const name of ["p50", "p90"]) {
    const at = x(latency[name]);
    // Each label is on its own side of its line, where there is room.
    const left = name === "p50" ? at > LEFT + 70 : at > WIDTH - 80;
    svg.append(
      svgElement("line", { class: "marker", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }),
      svgElement("text", { x: at + (left ? -4 : 4), y: name === "p50" ? TOP + 8 : TOP + 22, "text-anchor": left ? "end" : "start", text: `${name} ${seconds(latency[name])}` }),
    );
  }
  svg.append(
    svgElement("text", { x: LEFT, y: HEIGHT - 6, text: "0" }),
    svgElement("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end", text: seconds(end) }),
  );
  svg.setAttribute("aria-label", `Latencies: half of the pictures took at most ${seconds(latency.p50)}`);
  return svg;
}

function y(value, most) {
  return TOP + (1 - value / most) * (HEIGHT - BOTTOM - TOP);
}

// Returns an empty plot with lines at nothing, half and all.
function frame(most, label) {
  const svg = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  for (const value of [0, most / 2, most]) {
    const at = y(value, most);
    svg.append(
      svgElement("line", { class: "axis", x1: LEFT, x2: WIDTH - 8, y1: at, y2: at }),
      svgElement("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end", text: label(value) }),
    );
  }
  return svg;
}

// Returns a time, with the date where the plot spans days.
function clock(time, other) {
  const date = new Date(time * 1000);
  const short = Math.abs(time - other) < 86400;
  return date.toLocaleString("sv-SE", short ? { hour: "2-digit", minute: "2-digit", second: "2-digit" } : { year: "numeric", month: "2-digit", day: "2-digit" });
}
