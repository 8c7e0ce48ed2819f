// How one node looks: its mark (shape: how it stands; filled up to its score), its label, what is said of it.
import { brief, counted, drawn, score, whole } from "./basics.js";
import { numBelow } from "./places.js";

export const NUM_SCORE_COLOURS = 11;
const NUM_ANSWER_COLOURS = 8;

export function colourOfAnswer(rank) {
  return rank === undefined ? "var(--none)" : rank < NUM_ANSWER_COLOURS ? `var(--c${rank})` : "var(--soft)";
}
export function colourOfScore(value) {
  return `var(--s${Math.round(value * (NUM_SCORE_COLOURS - 1))})`;
}
/** How far a mark is filled, in [0, 1], and in which colour. */
export function fillOf(view, node, state) {
  if (state === "root") return { share: 1, colour: "var(--soft)" };
  const { colouring, trace } = view;
  const value = colouring === "answer" ? undefined : trace.scoreOf(node, colouring);
  const isAnswered = colouring === "answer" && node.answer !== null;
  const share = isAnswered ? 1 : value ?? 0;
  if (state === "given up") return { share, colour: "var(--gone)" };
  if (isAnswered) return { share, colour: colourOfAnswer(trace.rankOf.get(node.answer_class)) };
  return { share, colour: value === undefined ? "var(--none)" : colourOfScore(value) };
}
const OUTLINES = {
  finished: (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  cut: (r) => `M0 ${-1.25 * r}L${1.25 * r} 0L0 ${1.25 * r}L${-1.25 * r} 0Z`,
};
function circle(r) {
  return `M${-r} 0A${r} ${r} 0 0 1 ${r} 0A${r} ${r} 0 0 1 ${-r} 0Z`;
}
/** The part of a shape that lies below a line. */
function filled(state, r, share) {
  const y = r - 2 * r * share;
  if (state === "finished") return `M${-r} ${y}H${r}V${r}H${-r}Z`;
  if (state === "cut") {
    const edge = 1.25 * r - 2.5 * r * share;
    const half = 1.25 * r - Math.abs(edge);
    const belt = edge < 0 ? `L${1.25 * r} 0L0 ${1.25 * r}L${-1.25 * r} 0` : `L0 ${1.25 * r}`;
    return `M${-half} ${edge}L${half} ${edge}${belt}Z`;
  }
  const half = Math.sqrt(Math.max(0, r * r - y * y));
  return `M${-half} ${y}A${r} ${r} 0 ${share > 0.5 ? 1 : 0} 0 ${half} ${y}Z`;
}
export function mark(state, { share, colour }, r) {
  const made = drawn("g", { class: `mark ${state.replace(" ", "-")}` });
  const shape = (OUTLINES[state] ?? circle)(r);
  const outline = drawn("path", { class: "outline", d: shape });
  outline.style.stroke = colour;
  made.append(outline);
  if (share > 0.02) {
    const level = drawn("path", { class: "level", d: share > 0.98 ? shape : filled(state, r, share) });
    level.style.fill = colour;
    made.append(level);
  }
  return made;
}
/** Whether a node ends a branch that has a narrow row. */
export function isLow(view, node) {
  const isSmall = node.shown.length === 0 && node.given_up !== null && view.size.minor < 14;
  return isSmall && !view.trace.path.has(node.id) && !view.folded.has(node);
}
/** What is written beside a node; empty if there is no room. */
export function labelOf(view, node, state) {
  const { colouring, folded, size, trace } = view;
  const isOnPath = trace.path.has(node.id);
  if (folded.has(node) && node.children.length > 0) return `+${whole(numBelow(node))}`;
  if (state === "root") return size.letters ? brief(trace.fateOf(node), node.shown.length > 0 ? 20 : 60) : "";
  if (isLow(view, node) ? size.minor < 6 || state !== "given up" : size.row < 11 && !isOnPath) return "";
  const isEnd = node.shown.length === 0;
  const value = colouring === "answer" ? undefined : trace.scoreOf(node, colouring);
  const scores = value !== undefined ? [score(value)] : node.answer !== null
    ? trace.verifiers.map((name) => trace.scoreOf(node, name)).filter((given) => given !== undefined).map(score) : [];
  if (state === "finished" || node.answer !== null) {
    const said = [brief(node.answer ?? node.text, 40), ...scores];
    return (isOnPath ? "★ " : "") + said.join(" · ");
  }
  const fate = trace.fateOf(node);
  if (state === "given up" && isEnd) return size.minor < 14 ? "×" : brief(`× ${[...scores, fate].join(" · ")}`, 52);
  if (size.letters === 0 || (state === "given up" && size.minor < 14)) return "";
  const cut = state === "cut" && isEnd ? ` (${fate})` : "";
  return brief([...scores, node.text].join(" "), isEnd ? 34 : size.letters) + cut;
}
export function spoken(view, node, state) {
  const { trace } = view;
  const parts = [node.parent === null ? trace.fateOf(node) : `node ${node.id}, level ${node.depth}`];
  if (node.answer !== null) parts.push(`answer ${node.answer}`);
  for (const name of trace.verifiers) {
    const value = trace.scoreOf(node, name);
    if (value !== undefined) parts.push(`${name} ${score(value)}`);
  }
  if (state !== "root") parts.push(trace.fateOf(node), counted(node.output_tokens, "token", "tokens"), node.text);
  if (trace.path.has(node.id)) parts.push("on the chosen path");
  return brief(parts.join(", "), 300);
}
