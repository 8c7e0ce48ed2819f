// Single keys that lead through the dashboard, and the dialog that lists them.
import { addFact, byId } from "./page/basics.js";

const KEYS = [
  ["n", "a new job", () => { location.hash = "#/"; }],
  ["j", "the list of jobs", () => { location.hash = "#/jobs"; }],
  ["c", "compare two jobs", () => { location.hash = "#/compare"; }],
  ["u", "usage by key", () => { if (!byId("usage-link").hidden) location.hash = "#/usage"; }],
  ["/", "to the text filter of the list", () => document.querySelector("[data-filter]")?.focus()],
  ["t", "to the tree", () => document.querySelector("[role=treeitem][tabindex='0']")?.focus()],
  ["?", "this list", () => byId("help-dialog").showModal()],
];
const MORE = [
  ["Ctrl + Enter", "submits a job or a reply"],
  ["← → ↑ ↓", "in the tree: along a branch, within a level"],
  ["Enter, Space", "in the tree: read a node, fold a branch"],
  ["Shift + ← →", "in the tree: back and forth in time"],
  ["Esc", "closes what is open"],
];

export function setUpShortcuts() {
  for (const [key, words] of [...KEYS, ...MORE]) addFact(byId("help-keys"), key, words);
  byId("help-button").addEventListener("click", () => byId("help-dialog").showModal());
  for (const close of document.querySelectorAll("[data-close]")) close.addEventListener("click", () => close.closest("dialog").close());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const found = KEYS.find(([key]) => key === event.key);
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
}
function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName) || (target.tagName === "INPUT" && !/^(checkbox|range)$/.test(target.type)));
}
