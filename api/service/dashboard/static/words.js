// Quantities, times, confidence and reasons in words.
import { element, whole } from "./page/basics.js";

/** Caps of a budget: the name, the field of the usage it caps, how an amount is written. */
export const CAPS = {
  max_output_tokens: { name: "output tokens", spent: (usage) => usage.output_tokens ?? 0, words: whole, unit: "tokens" },
  max_total_tokens: { name: "total tokens", spent: totalTokens, words: whole, unit: "tokens" },
  max_model_calls: { name: "model calls", spent: (usage) => usage.model_calls ?? 0, words: whole, unit: "calls" },
  max_tool_calls: { name: "tool calls", spent: (usage) => usage.tool_calls ?? 0, words: whole, unit: "calls" },
  max_usd: { name: "US dollars", spent: usd, words: dollars, unit: "US dollars" },
  max_flops: { name: "FLOPs", spent: (usage) => usage.flops ?? 0, words: flops, unit: "FLOPs" },
  max_seconds: { name: "time", spent: (usage) => usage.wall_s ?? 0, words: duration, unit: "seconds" },
};
export const STATES = {
  queued: "○", running: "◐", waiting: "?", succeeded: "✓", failed: "✕", cancelled: "⊘",
};
export function isOver(state) {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}
export function totalTokens(usage) {
  return (usage.prompt_tokens ?? 0) + (usage.output_tokens ?? 0);
}
export function usd(usage) {
  return (usage.picodollars ?? 0) / 1e12;
}
export function dollars(value) {
  const digits = value === 0 || value >= 1 ? 2 : Math.max(2, 2 - Math.floor(Math.log10(value)));
  return `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: Math.min(12, digits) })}`;
}
export function flops(value) {
  for (const [factor, prefix] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
    if (value >= factor) return `${Number((value / factor).toPrecision(3))} ${prefix}FLOP`;
  }
  return `${whole(Math.round(value))} FLOP`;
}
export function duration(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  const minutes = Math.floor(Math.round(value) / 60), rest = String(Math.round(value) % 60).padStart(2, "0");
  return minutes < 60 ? `${minutes} min ${rest} s` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}
/** A share in [0, 1]; never rounded to certainty. */
export function percent(share) {
  if (share > 0 && share < 0.01) return "<1 %";
  if (share > 0.99 && share < 1) return ">99 %";
  return `${Math.round(100 * share)} %`;
}
/** How sure the policy is, and of what. */
export function confidenceWords({ confidence, confidence_kind: kind }) {
  if (confidence === null || confidence === undefined) return "none: the policy makes no estimate";
  if (kind === "majority_posterior") return `${percent(confidence)} sure that this is the answer the model gives most often (not that it is right)`;
  if (kind === "verifier") return `the verifier's score is ${confidence.toFixed(2)} of 1 (not calibrated: no probability of being right)`;
  if (kind === "calibrated") return `${percent(confidence)} sure that it is right (calibrated)`;
  return `${percent(confidence)} (${kind ?? "of unknown kind"})`;
}
/** The same in a word or two, for tables. */
export function confidenceBrief({ confidence, confidence_kind: kind }) {
  if (confidence === null || confidence === undefined) return "–";
  const names = { majority_posterior: "majority", verifier: "verifier", calibrated: "calibrated" };
  return `${kind === "verifier" ? confidence.toFixed(2) : percent(confidence)} ${names[kind] ?? kind ?? ""}`;
}
export function stopWords({ stop_reason: reason, limited_by: limit, error }) {
  const cap = CAPS[limit]?.name ?? limit;
  switch (reason) {
    case "completed": return cap ? `the policy was done, with less than it wanted: ${cap} ran short` : "the policy was done";
    case "budget": return `the budget was used up: ${cap ?? "a cap"} did not allow more`;
    case "deadline": return "time was up";
    case "cancelled": return "it was cancelled; this is the best so far";
    case "overrun": return "a server spent more than was reserved";
    case "waiting": return "it waits for a person";
    case "failed": return `it failed: ${error?.message ?? "no reason given"}`;
    default: return reason ?? "";
  }
}
const UNITS = [[60, "second"], [3600, "minute"], [86400, "hour"], [86400 * 30, "day"], [86400 * 365, "month"], [Infinity, "year"]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

function relativeWords(at) {
  const past = Date.now() / 1000 - at;
  if (Math.abs(past) < 5) return "just now";
  let size = 1;
  for (const [limit, unit] of UNITS) {
    if (Math.abs(past) < limit) return relative.format(-Math.round(past / size), unit);
    size = limit;
  }
  return "";
}
/** A time, relative; the absolute one is its title. */
export function time(at) {
  const date = new Date(at * 1000);
  return element("time", { datetime: date.toISOString(), title: date.toLocaleString(), "data-at": String(at) }, relativeWords(at));
}
/** Keeps all relative times right. */
export function keepTime() {
  setInterval(() => {
    for (const shown of document.querySelectorAll("time[data-at]")) {
      const words = relativeWords(Number(shown.dataset.at));
      if (shown.textContent !== words) shown.textContent = words;
    }
  }, 5000);
}
export function stateChip(state, { isCancelWanted = false } = {}) {
  const words = isCancelWanted && !isOver(state) ? "cancelling" : state;
  return element("span", { class: `chip ${state in STATES ? state : "queued"}` }, element("span", { "aria-hidden": "true" }, STATES[state] ?? "○"), ` ${words}`);
}
