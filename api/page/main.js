// The trace page: what was asked, the answer, the votes, the spend, the tree, its levels and actions, from the data in
// the page.
import { addFact, byId, element } from "./basics.js";
import { capBar, voteButtons } from "./bars.js";
import { TreeCard } from "./card.js";
import { Lanes, showActions, showLevels, table } from "./tables.js";
import { Trace } from "./trace.js";

const data = JSON.parse(byId("data").textContent);
const trace = Trace.of(data);

byId("job").textContent = data.kicker;
byId("question").textContent = data.problem;
if (data.problem.length > 600) {
  byId("question").classList.add("folded");
  byId("more").hidden = false;
  byId("more").addEventListener("click", () => {
    const isFolded = byId("question").classList.toggle("folded");
    byId("more").textContent = isFolded ? "show all" : "show less";
  });
}
byId("answer").textContent = data.answer ?? "no answer";
if (data.answer === null) byId("answer").classList.add("muted");
for (const [name, value] of data.facts) addFact(byId("facts"), name, value);

const card = new TreeCard(trace, { onTime: () => lanes.point(trace.moment) });
const lanes = new Lanes(data.actions, byId("lanes"), { wallS: data.wall_s, onChoose: (position) => card.time.go(position + 1) });
byId("tree-card").replaceWith(card.section);

const onWant = (answer) => {
  card.view.wanted = answer;
  card.view.layOut();
};
byId("votes").append(...voteButtons(data.votes, { rankOf: trace.rankOf, onWant }));
if (data.votes.length === 0) byId("votes-hint").textContent = "No text states an answer.";
byId("caps").append(...data.caps.map(capBar));
if (data.caps.length === 0) byId("caps").append(element("p", { class: "hint" }, "The job had no caps."));

byId("levels-card").hidden = trace.depth < 2;
if (trace.depth > 1) showLevels(trace, data.levels);
byId("all-actions").addEventListener("toggle", () => {
  if (byId("actions").childElementCount === 0) showActions(data.actions, byId("actions"));
});
table(byId("ledger"), ["what", "spent", ""], data.ledger);

card.show();
window.addEventListener("beforeprint", () => card.view.paint({ isAll: true }));
window.addEventListener("afterprint", () => card.view.paint());
