// What marks and colours mean, as far as the tree has them.
import { drawn, element } from "./basics.js";
import { colourOfScore, mark, NUM_SCORE_COLOURS } from "./marks.js";

function legendItem(words, state, fill) {
  const icon = drawn("svg", { width: 20, height: 18, viewBox: "-10 -9 20 18", "aria-hidden": "true" });
  icon.append(mark(state, fill, 6));
  return element("li", {}, icon, words);
}
export function showLegend(view, list) {
  const { trace } = view;
  const byScore = view.colouring !== "answer";
  const plain = { share: byScore ? 0.6 : 1, colour: byScore ? colourOfScore(0.6) : "var(--none)" };
  const states = trace.atEnd(() => new Set([...trace.nodes.values()].map((node) => trace.stateOf(node))));
  const items = [];
  if (states.has("continued") || states.has("open")) items.push(legendItem("a step", "continued", plain));
  if (states.has("finished")) items.push(legendItem("finished", "finished", plain));
  if (states.has("cut")) items.push(legendItem("cut off", "cut", plain));
  if (states.has("given up")) items.push(legendItem("given up (×, dashed): choose it to read why", "given up", { ...plain, colour: "var(--gone)" }));
  if (byScore) {
    const ramp = element("span", { class: "ramp", "aria-hidden": "true" });
    for (let index = 0; index < NUM_SCORE_COLOURS; index++) {
      const part = element("span");
      part.style.background = `var(--s${index})`;
      ramp.append(part);
    }
    items.push(element("li", {}, "score 0 ", ramp, " 1; a mark is filled up to its score"));
  }
  if (trace.path.size > 0) items.push(element("li", { class: "chosen" }, "chosen path, ★ its end"));
  list.replaceChildren(...items);
}
