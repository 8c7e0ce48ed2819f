// The head of the page: what was asked, the answer, the votes, the spend.
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

const MOST_VOTES = 6;
const voteButtons = [];
const mostVotes = data.votes.reduce((most, vote) => Math.max(most, vote.num_samples), 1);
function voteButton(vote) {
  const button = element("button", { type: "button", class: "vote", "aria-pressed": "false" });
  const fill = element("span");
  fill.style.width = `${(100 * vote.num_samples) / mostVotes}%`;
  fill.style.background = colourOfAnswer(vote.answer);
  const bar = element("span", { class: "bar" }, fill);
  const name = brief(vote.answer, 60);
  const count = `${vote.num_samples}${vote.is_chosen ? " ★" : ""}`;
  button.append(element("span", { class: "name", dir: "auto" }, name), bar, element("span", {}, count));
  button.setAttribute("aria-label", `${name}: ${vote.num_samples}${vote.is_chosen ? ", chosen" : ""}`);
  button.addEventListener("click", () => {
    wanted = wanted === vote.answer ? null : vote.answer;
    for (const [other, answer] of voteButtons) other.setAttribute("aria-pressed", String(wanted === answer));
    layOut();
  });
  voteButtons.push([button, vote.answer]);
  return button;
}
const votes = byId("votes");
votes.append(...data.votes.slice(0, MOST_VOTES).map(voteButton));
if (data.votes.length > MOST_VOTES) {
  const rest = element("details", {}, element("summary", {}, `${whole(data.votes.length - MOST_VOTES)} more answers`));
  rest.addEventListener("toggle", () => {
    if (rest.childElementCount === 1) rest.append(...data.votes.slice(MOST_VOTES).map(voteButton));
  });
  votes.append(rest);
}
if (data.votes.length === 0) byId("votes-hint").textContent = "No text states an answer.";

for (const cap of data.caps) {
  const fill = element("span", cap.share >= 0.98 ? { class: "full" } : {});
  fill.style.width = `${Math.min(100, 100 * cap.share)}%`;
  const line = element("p", {}, element("span", {}, cap.name), element("span", {}, cap.words));
  byId("caps").append(element("div", { class: "cap" }, line, element("div", { class: "bar" }, fill)));
}
if (data.caps.length === 0) byId("caps").append(element("p", { class: "hint" }, "The job had no caps."));
