// One node in full, beside the tree: facts, and its text as plain text.
import { addFact, brief, element, score, whole } from "./basics.js";
import { finishWords } from "./trace.js";

const MOST_CHARS = 200_000; // of one text

export class Detail {
  constructor(view, { aside, title, facts, fold, close, whole, text }) {
    Object.assign(this, { view, aside, title, facts, fold, isWhole: whole, text });
    close.addEventListener("click", () => this.close());
    fold.addEventListener("click", () => { view.toggle(view.opened); this.open(view.opened); });
    whole.addEventListener("change", () => this.#showText());
  }
  get isOpen() {
    return !this.aside.hidden;
  }
  open(node, { isByKey = false } = {}) {
    this.view.opened = node;
    this.refresh();
    this.#showText();
    this.aside.hidden = false;
    this.aside.scrollTop = 0;
    if (isByKey) this.aside.focus();
  }
  /** Says anew how the open node stands. */
  refresh() {
    const { facts, view } = this;
    const { trace } = view;
    const node = view.opened;
    this.title.textContent = node.parent === null ? (node.id === "0" ? "The problem" : "Another conversation") : `Node ${node.id}`;
    facts.replaceChildren();
    if (node.answer !== null) addFact(facts, "answer", node.answer);
    if (node.parent !== null) {
      addFact(facts, "state", this.#fateNow(node));
      for (const name of trace.verifiers) this.#addScores(node, name);
      const twin = node.up.children.find((sibling) => sibling.text === node.text);
      if (twin !== node) addFact(facts, "the same as", `node ${twin.id}`);
      if (node.model) addFact(facts, "model", node.model);
      addFact(facts, "level", `${node.depth}, written by action ${node.id.split(".")[0]}`);
      addFact(facts, "tokens", `${whole(node.output_tokens)}, ${whole(pathTokens(node))} from the beginning`);
    }
    if (node.finish !== null) {
      const detail = node.finish_detail ? ` (${JSON.stringify(node.finish_detail)})` : "";
      addFact(facts, "ended", finishWords(node.finish) + detail);
    }
    if (node.logprob !== null) addFact(facts, "log probability", node.logprob.toFixed(3));
    this.fold.hidden = node.children.length === 0 || node.parent === null;
    this.fold.textContent = view.folded.has(node) ? "unfold" : "fold";
  }
  close() {
    const { view } = this;
    this.aside.hidden = true;
    const node = view.opened;
    view.opened = null;
    view.paint();
    if (node && view.groups.has(node)) view.focusOn(node);
  }
  #fateNow(node) {
    const { trace } = this.view;
    const when = trace.isGivenUp(node) ? ` (action ${node.given_up.action})` : "";
    return trace.fateOf(node) + when + (trace.path.has(node.id) ? ", on the chosen path" : "");
  }
  /** The scores of the steps on the way, which is what a search compares. */
  #addScores(node, name) {
    const { trace } = this.view;
    const way = [];
    for (let step = node; step; step = step.up) way.unshift(trace.scoreOf(step, name));
    const known = way.filter((value) => value !== undefined);
    const own = trace.scoreOf(node, name);
    if (own !== undefined) addFact(this.facts, brief(name, 24), own.toFixed(4));
    if (known.length > 1) addFact(this.facts, "on the way", known.map(score).join(", "));
  }
  #showText() {
    const { text, view } = this;
    const isWhole = this.isWhole.checked;
    text.replaceChildren();
    const chain = [];
    for (let node = view.opened; node; node = node.up) chain.unshift(node);
    for (const node of isWhole ? chain : [view.opened]) {
      for (const [role, content] of node.messages) text.append(element("span", { class: "turn" }, role), shortened(content));
      if (node.parent !== null) {
        if (chain[1] === node && isWhole) text.append(element("span", { class: "turn" }, "assistant"));
        if (node.forced) text.append(element("span", { class: "forced", title: "put there, not generated" }, node.forced));
        const own = shortened(node.text.slice(node.forced.length));
        text.append(node === view.opened && isWhole ? element("mark", {}, own) : own);
      }
    }
  }
}
function shortened(text) {
  if (text.length <= MOST_CHARS) return text;
  return `${text.slice(0, MOST_CHARS)}\n… ${whole(text.length - MOST_CHARS)} more characters are not shown`;
}
function pathTokens(node) {
  let sum = 0;
  for (let step = node; step; step = step.up) sum += step.output_tokens;
  return sum;
}
