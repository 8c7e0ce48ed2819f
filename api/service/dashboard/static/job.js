// One job: its problem and settings above, and its panel, which follows it.
import { call, jobPath } from "./api.js";
import { draftOf } from "./draft.js";
import { cancelJob } from "./jobs.js";
import { addFact, brief, element } from "./page/basics.js";
import { Panel } from "./panel.js";
import { button, say } from "./states.js";
import { isOver, stateChip, time } from "./words.js";

const FOLDED_CHARS = 400;

export function showJob(main, { signal, parts: [id] }) {
  const head = element("div", { class: "job-head" });
  const asked = element("details", { class: "card asked" }, element("summary", {}, "What was asked"), element("dl"));
  const panel = new Panel(id, { signal, onJob: (job) => showHead(head, asked, job, panel) });
  main.replaceChildren(head, panel.element, asked);
  asked.hidden = true;
  panel.run();
}
function showHead(head, asked, job, panel) {
  document.title = `${brief(job.problem, 50)} · ttc`;
  if (head.childElementCount === 0) build(head, asked, job, panel);
  head.querySelector(".chip").replaceWith(stateChip(job.state, { isCancelWanted: job.is_cancel_wanted }));
  head.querySelector(".cancel").hidden = isOver(job.state) || job.is_cancel_wanted;
}
function build(head, asked, job, panel) {
  const cancel = button("Cancel", async () => {
    cancel.disabled = true;
    if (await cancelJob(job.id)) panel.noteCancel();
    else cancel.disabled = false;
  }, { class: "cancel" });
  const again = button("Ask again…", async () => {
    try {
      draftOf(await call("GET", jobPath(job.id), { isExact: true }));
      location.hash = "#/";
    } catch (error) {
      say(error.message);
    }
  });
  const compare = element("a", { class: "button", href: `#/compare/${encodeURIComponent(job.id)}` }, "Compare…");
  const params = Object.entries(job.params).map(([name, value]) => `${name}=${value}`).join(", ");
  const meta = element("p", { class: "meta" }, stateChip(job.state), element("span", {}, params ? `${job.policy} (${brief(params, 80)})` : job.policy), time(job.created_at), element("code", {}, job.id));
  const problem = element("h1", { class: "text problem-text", dir: "auto" }, job.problem.slice(0, FOLDED_CHARS));
  head.append(element("div", { class: "job-bar" }, meta, element("span", { class: "buttons" }, cancel, compare, again)), problem);
  if (job.problem.length > FOLDED_CHARS) head.append(unfolder(problem, job.problem));
  fillAsked(asked, job);
}
function unfolder(problem, text) {
  problem.append("…");
  const more = button("Show all", () => {
    const isFolded = more.textContent === "Show all";
    problem.textContent = isFolded ? text : `${text.slice(0, FOLDED_CHARS)}…`;
    problem.classList.toggle("whole", isFolded);
    more.textContent = isFolded ? "Show less" : "Show all";
  }, { class: "small" });
  return more;
}
function fillAsked(asked, job) {
  const list = asked.querySelector("dl");
  addFact(list, "policy", job.policy);
  for (const [name, value] of Object.entries(job.params)) addFact(list, name, JSON.stringify(value));
  for (const [name, value] of Object.entries(job.budget)) addFact(list, name.replaceAll("_", " "), String(value));
  for (const [name, value] of Object.entries(job.labels)) addFact(list, `label ${name}`, value);
  if (job.priority) addFact(list, "priority", String(job.priority));
  if (job.batch) addFact(list, "batch", job.batch);
  if (job.due_at) addFact(list, "wanted by", new Date(job.due_at * 1000).toLocaleString());
  asked.hidden = false;
}
