// Answers by their votes, and spend against caps, as bars.
import { brief, element, whole } from "./basics.js";
import { colourOfAnswer } from "./marks.js";

const MOST_VOTES = 6;

/** Buttons for the answers, most votes first; `onWant(answer or null)` is called when one is chosen or let go. */
export function voteButtons(votes, { rankOf, wanted = null, onWant }) {
  const most = votes.reduce((high, vote) => Math.max(high, vote.num_samples), 1);
  const buttons = [];
  const choose = (answer) => {
    wanted = wanted === answer ? null : answer;
    for (const [button, other] of buttons) button.setAttribute("aria-pressed", String(wanted === other));
    onWant(wanted);
  };
  const made = (vote) => {
    const fill = element("span");
    fill.style.width = `${(100 * vote.num_samples) / most}%`;
    fill.style.background = colourOfAnswer(rankOf.get(vote.answer));
    const name = brief(vote.answer, 60);
    const words = `${name}: ${vote.num_samples}${vote.is_chosen ? ", chosen" : ""}`;
    const button = element("button", { type: "button", class: "vote", "aria-pressed": String(wanted === vote.answer), "aria-label": words },
      element("span", { class: "name", dir: "auto" }, name), element("span", { class: "bar" }, fill),
      element("span", {}, `${vote.num_samples}${vote.is_chosen ? " ★" : ""}`));
    button.addEventListener("click", () => choose(vote.answer));
    buttons.push([button, vote.answer]);
    return button;
  };
  const shown = votes.slice(0, MOST_VOTES).map(made);
  if (votes.length <= MOST_VOTES) return shown;
  const rest = element("details", {}, element("summary", {}, `${whole(votes.length - MOST_VOTES)} more answers`));
  rest.addEventListener("toggle", () => {
    if (rest.childElementCount === 1) rest.append(...votes.slice(MOST_VOTES).map(made));
  });
  return [...shown, rest];
}
/** One cap: its name, how much of it is spent in words, and the share in [0, 1] as a bar. */
export function capBar({ name, words, share }) {
  const fill = element("span", share >= 0.98 ? { class: "full" } : {});
  fill.style.width = `${Math.min(100, 100 * share)}%`;
  const line = element("p", {}, element("span", {}, name), element("span", {}, words));
  return element("div", { class: "cap" }, line, element("div", { class: "bar" }, fill));
}
