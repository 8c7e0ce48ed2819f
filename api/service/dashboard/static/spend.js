// What a job has spent, against its caps as bars and in numbers.
import { addFact, element, whole } from "./page/basics.js";
import { capBar } from "./page/bars.js";
import { CAPS, dollars, duration, flops, totalTokens, usd } from "./words.js";

export class SpendCard {
  constructor(id) {
    this.caps = element("div", { class: "caps" });
    this.facts = element("dl", { class: "numbers" });
    this.section = element("section", { class: "card spend", "aria-labelledby": id },
      element("h2", { id }, "Spend against caps"), this.caps, this.facts);
  }
  show(usage, budget) {
    const caps = Object.keys(CAPS).filter((cap) => cap in budget);
    const bars = caps.map((cap) => {
      const { name, spent, words } = CAPS[cap];
      const value = spent(usage);
      const share = budget[cap] > 0 ? value / budget[cap] : 1;
      return capBar({ name, words: `${words(value)} of ${words(budget[cap])}`, share });
    });
    this.caps.replaceChildren(...(bars.length > 0 ? bars : [element("p", { class: "hint" }, "This job has no caps.")]));
    this.facts.replaceChildren();
    const capped = new Set(caps.map((cap) => CAPS[cap].name));
    for (const [name, words] of numbers(usage)) if (!capped.has(name)) addFact(this.facts, name, words);
  }
}
/** What is worth saying of a usage: (name, words). */
export function numbers(usage) {
  const shown = [
    ["output tokens", whole(usage.output_tokens ?? 0)],
    ["total tokens", whole(totalTokens(usage))],
    ["model calls", whole(usage.model_calls ?? 0)],
    ["US dollars", dollars(usd(usage))],
    ["time", duration(usage.wall_s ?? 0)],
  ];
  if (usage.flops) shown.push(["compute", flops(usage.flops)]);
  if (usage.verifier_calls) shown.push(["scored", `${whole(usage.verifier_calls)} texts`]);
  if (usage.lost_tokens) shown.push(["lost in a crash", `${whole(usage.lost_tokens)} tokens`]);
  if (usage.is_estimated) shown.push(["counts", "estimated in part"]);
  return shown;
}
