// The answer of a job, how sure of it the policy is and why it stopped; and the answers that were its rivals.
import { addFact, brief, element } from "./page/basics.js";
import { voteButtons } from "./page/bars.js";
import { confidenceWords, isOver, percent, stopWords } from "./words.js";

const LONG_CHARS = 60;
const MOST_CHARS = 20_000;

export class AnswerCard {
  constructor(id) {
    this.text = element("div", { class: "text big", dir: "auto", tabindex: "0", role: "region", "aria-labelledby": id });
    this.facts = element("dl", { class: "stacked" });
    this.section = element("section", { class: "card answer", "aria-labelledby": id }, element("h2", { id }, "Answer"), this.text, this.facts);
  }
  /** `soFar`: the best answer of a job that is not over; `written`: what it writes of the answer it chose. */
  show(job, { soFar, written }) {
    const over = isOver(job.state);
    const known = over ? job.answer : written || soFar || null;
    const none = over ? "No answer" : job.state === "queued" ? "Waiting for its turn" : "None so far";
    const text = known ?? none;
    const shown = text.length > MOST_CHARS ? `${text.slice(0, MOST_CHARS)}…` : text;
    if (this.text.textContent !== shown) this.text.textContent = shown;
    this.text.classList.toggle("muted", known === null);
    this.text.classList.toggle("long", shown.length > LONG_CHARS);
    this.facts.replaceChildren();
    if (over) {
      addFact(this.facts, "confidence", confidenceWords(job));
      addFact(this.facts, "stopped because", stopWords(job));
    } else if (known !== null) {
      addFact(this.facts, "so far", written ? "it is being written" : "the best until now; it may change");
    } else addFact(this.facts, "so far", job.state === "queued" ? "no controller has taken the job yet" : "it is thinking");
  }
}
export class VotesCard {
  /** `onWant(answer or null)`: only the branches that reach this answer are to be seen. */
  constructor(id, onWant) {
    this.wanted = null;
    this.onWant = (answer) => onWant((this.wanted = answer));
    this.votes = element("div", { role: "group", "aria-labelledby": id });
    this.hint = element("p", { class: "hint" });
    this.others = element("ul", { class: "plain" });
    this.section = element("section", { class: "card votes-card", "aria-labelledby": id }, element("h2", { id }, "Answer and rivals"), this.hint, this.votes, this.others);
    this.known = null;
  }
  show(votes, rankOf, alternatives) {
    const state = JSON.stringify([votes, alternatives]);
    if (state === this.known) return;
    this.known = state;
    const focused = [...this.votes.children].indexOf(document.activeElement);
    this.hint.textContent = votes.length > 0 ? "Choose one to see only the branches that reach it." : "No text has stated an answer yet.";
    this.votes.replaceChildren(...voteButtons(votes, { rankOf, wanted: this.wanted, onWant: this.onWant }));
    if (focused >= 0) this.votes.children[focused]?.focus();
    const voted = new Set(votes.map((vote) => vote.answer));
    const others = alternatives.filter(({ answer }) => !voted.has(answer));
    this.others.replaceChildren(...others.map(({ answer, share }) => element("li", { dir: "auto" }, `${brief(answer, 80)} (${percent(share)})`)));
  }
}
