// What is known of one row: prompt, decision, measures, cost, and the manifest's own columns.

import { byId, element, measure, seconds, usd } from "./dom.js";

// `show`: shows the row with a number.
export function showFacts(row, decision, show) {
  const frame = byId("facts");
  frame.replaceChildren();
  frame.scrollTop = 0;
  if (!row) return;
  frame.append(verdicts(row, decision), element("p", { class: "asked", text: row.prompt }));
  if (row.error) frame.append(heading(`${row.status}${row.status_code ? `, HTTP ${row.status_code}` : ""}`), element("p", { class: "server-words", text: row.error }));
  frame.append(
    heading("Picture"),
    list([
      ["id", row.variant > 1 || row.variants.length ? `${row.id}, variant ${row.variant}` : row.id],
      ["seed", row.seed],
      ["status", row.status],
      ["cost", usd(row.cost_usd)],
      row.possibly_charged_usd ? ["possibly charged", usd(row.possibly_charged_usd)] : null,
      ["latency", seconds(row.latency_s)],
      ["size", size(row.width, row.height)],
      ["input", row.input ? size(row.input_width, row.input_height) : (row.input_image ?? "none: text-to-image")],
      row.attempts > 1 ? ["attempts", row.attempts] : null,
    ]),
  );
  const own = Object.entries(row.own);
  if (own.length) frame.append(heading("Manifest"), list(own));
  const measures = Object.entries(row.measures).filter(([, value]) => value !== null);
  if (measures.length) frame.append(heading("Measures"), list(measures.map(([name, value]) => [name, measure(value)])));
  if (row.near_duplicate_of) {
    const { n, id } = row.near_duplicate_of;
    frame.append(element("p", {}, "Nearest picture: ", element("button", { type: "button", text: id, onclick: () => show(n) })));
  }
  frame.append(
    heading("Identity"),
    list([
      ["batch", row.batch],
      ["row", `${row.manifest} ${row.row}`],
      ["backend", row.backend],
      ["input image", row.input ? row.input_image : null],
      ["fingerprint", row.fingerprint, "mono"],
    ]),
  );
}

function verdicts(row, decision) {
  const made = element("div");
  if (decision.decision) {
    const words = { keep: "kept", reject: "rejected" }[decision.decision];
    const text = decision.reason ? `${words}: ${decision.reason}` : words;
    made.append(element("span", { class: `verdict ${decision.decision}`, text: decision.reviewer ? `${text} (${decision.reviewer})` : text }));
  } else {
    made.append(element("span", { class: "verdict", text: row.status === "succeeded" ? "undecided" : row.status }));
  }
  for (const issue of row.issues) made.append(element("span", { class: "verdict issue", text: issue }));
  return made;
}

function heading(text) {
  return element("h2", { text });
}

function list(pairs) {
  const made = element("dl");
  for (const pair of pairs) {
    if (!pair || pair[1] === null || pair[1] === undefined) continue;
    made.append(element("dt", { text: pair[0] }), element("dd", { text: pair[1], class: pair[2] ?? null }));
  }
  return made;
}

function size(width, height) {
  return width && height ? `${width} × ${height}` : null;
}
