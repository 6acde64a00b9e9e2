// The dialogs: the reason of a rejection, and the keys.

import { byId, element } from "./dom.js";

const REASONS = ["unchanged", "wrong edit", "artifacts", "identity lost", "blurry", "text wrong"];
const MOST_REASONS = 9;

export const KEYS = [
  ["k", "keep"],
  ["r", "reject, then a reason: a digit, or text and Enter"],
  ["u", "undo the last decision"],
  ["n → ↓ space", "next row"],
  ["p ← ↑", "previous row"],
  ["1 … 9", "keep this variant, reject the others"],
  ["v", "all variants as a grid"],
  ["b", "input beside output"],
  ["s", "slider; [ and ] move it"],
  ["d", "difference"],
  ["/", "search"],
  ["f", "filters"],
  ["o", "overview and plots"],
  ["? or h", "these keys"],
  ["Esc", "close"],
];

export function showHelp() {
  const dialog = byId("help-dialog");
  const lines = KEYS.flatMap(([keys, meaning]) => [
    element("dt", {}, ...keys.split(" ").map((key) => (["or", "…", "space"].includes(key) && key !== "space" ? ` ${key} ` : element("kbd", { text: key })))),
    element("dd", { text: meaning }),
  ]);
  dialog.replaceChildren(
    element("h1", { text: "Keys" }),
    element("dl", {}, ...lines),
    element("p", {}, element("button", { type: "button", text: "Close", onclick: () => dialog.close() })),
  );
  dialog.showModal();
}

// Asks for the reason of a rejection. Returns the reason, perhaps empty, or null where the dialog was left.
export function askReason(used) {
  const dialog = byId("reason-dialog");
  const frequent = Object.entries(used).sort((a, b) => b[1] - a[1]).map(([reason]) => reason);
  const reasons = [...new Set([...frequent, ...REASONS])].filter((reason) => reason && reason.length <= 40).slice(0, MOST_REASONS);
  return new Promise((resolve) => {
    let answer = null;
    const done = (reason) => {
      answer = reason;
      dialog.close();
    };
    const text = element("input", { type: "text", maxlength: 500, placeholder: "Reason (may be empty)", "aria-label": "Reason", autocomplete: "off" });
    text.addEventListener("keydown", (event) => {
      const chosen = reasons[Number(event.key) - 1];
      if (chosen && text.value === "" && /^[1-9]$/.test(event.key)) {
        event.preventDefault();
        done(chosen);
      } else if (event.key === "Enter") {
        event.preventDefault();
        done(text.value.trim());
      }
    });
    dialog.replaceChildren(
      element("h1", { text: "Why is it rejected?" }),
      text,
      element("div", { class: "reasons" }, ...reasons.map((reason, i) => element("button", { type: "button", onclick: () => done(reason) }, reason, element("kbd", { text: String(i + 1) })))),
      element(
        "div",
        { class: "decide" },
        element("button", { type: "button", class: "reject", onclick: () => done(text.value.trim()) }, "Reject ", element("kbd", { text: "Enter" })),
        element("button", { type: "button", onclick: () => dialog.close() }, "Cancel ", element("kbd", { text: "Esc" })),
      ),
    );
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    dialog.showModal();
    text.focus();
  });
}
