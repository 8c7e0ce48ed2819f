// Two jobs side by side: their answers, what they spent, the difference, their trees.
import { call } from "./api.js";
import { brief, element, whole } from "./page/basics.js";
import { Panel } from "./panel.js";
import { empty, failed, loading } from "./states.js";
import { confidenceBrief, dollars, duration, isOver, percent, totalTokens, usd } from "./words.js";

const NUM_OFFERED = 100;
const ROWS = [ // name, value of (usage, panel), words
  ["output tokens", (usage) => usage.output_tokens ?? 0, whole],
  ["total tokens", totalTokens, whole],
  ["model calls", (usage) => usage.model_calls ?? 0, whole],
  ["price", usd, dollars],
  ["time", (usage) => usage.wall_s ?? 0, duration],
  ["nodes of the tree", (_, panel) => panel.growth.numNodes, whole],
  ["depth of the tree", (_, panel) => panel.growth.depth, whole],
  ["trajectories given up", (_, panel) => panel.growth.numGivenUp, whole],
  ["different answers", (_, panel) => panel.growth.answerCounts.size, whole],
];

export async function showCompare(main, { signal, parts }) {
  main.replaceChildren(element("h1", {}, "Compare two jobs"), loading("Loading jobs…"));
  let jobs;
  try {
    jobs = (await call("GET", `/v1/jobs?limit=${NUM_OFFERED}`, { signal })).data;
  } catch (error) {
    if (!signal.aborted) main.replaceChildren(failed(error, () => showCompare(main, { signal, parts })));
    return;
  }
  const ids = [parts[0] ?? "", parts[1] ?? ""];
  const choices = element("div", { class: "pickers card" }, picker("First job", jobs, ids, 0), picker("Second job", jobs, ids, 1));
  main.replaceChildren(element("h1", {}, "Compare two jobs"), choices);
  if (!ids[0] || !ids[1]) {
    main.append(empty(jobs.length > 1 ? "Choose two jobs above, or tick them in the list of jobs." : "Comparing needs two jobs. Submit some first."));
    return;
  }
  new Comparison(main, ids, signal);
}
function picker(label, jobs, ids, place) {
  const id = `f-job-${place}`;
  const known = new Set(jobs.map((job) => job.id));
  const words = (job) => `${brief(job.problem, 50)} · ${job.policy} · ${job.state}`;
  const options = jobs.map((job) => element("option", { value: job.id }, words(job)));
  if (ids[place] && !known.has(ids[place])) options.push(element("option", { value: ids[place] }, ids[place]));
  const select = element("select", { id }, element("option", { value: "" }, "choose…"), ...options);
  select.value = ids[place];
  select.addEventListener("change", () => {
    const next = ids.map((one, index) => (index === place ? select.value : one));
    location.hash = `#/compare/${next.map((one) => encodeURIComponent(one || "-")).join("/")}`;
  });
  return element("label", { class: "field", for: id }, element("span", {}, label), select);
}

class Comparison {
  constructor(main, ids, signal) {
    this.body = element("tbody");
    const titles = ["", "First", "Second", "Difference"].map((title) => element("th", { scope: "col" }, title));
    const table = element("table", { class: "differences" }, element("thead", {}, element("tr", {}, ...titles)), this.body);
    const card = element("section", { class: "card", "aria-label": "Differences" }, element("div", { class: "scroll" }, table));
    this.panels = ids.map((id, place) => new Panel(id, {
      signal, prefix: place === 0 ? "a-" : "b-", title: place === 0 ? "Tree of the first" : "Tree of the second", treeHeight: () => 0.5 * window.innerHeight,
      onJob: () => this.#show(), onUsage: () => this.#show(),
    }));
    const side = (panel, title, id) => element("section", { class: "side", "aria-label": title }, element("h2", {}, element("a", { href: `#/jobs/${encodeURIComponent(id)}` }, title)), panel.element);
    main.append(card, element("div", { class: "sides" }, side(this.panels[0], "First job", ids[0]), side(this.panels[1], "Second job", ids[1])));
    for (const panel of this.panels) panel.run();
  }
  #show() {
    const [first, second] = this.panels;
    if (!first.job || !second.job || !first.growth || !second.growth) return;
    const rows = [
      ["state", first.job.state, second.job.state, sameness(first.job.state, second.job.state)],
      ["policy", first.job.policy, second.job.policy, sameness(first.job.policy, second.job.policy)],
      ["answer", answerOf(first), answerOf(second), this.#answers(first, second)],
      ["confidence", confidenceBrief(first.job), confidenceBrief(second.job), ""],
      ["stopped", first.job.stop_reason ?? "–", second.job.stop_reason ?? "–", sameness(first.job.stop_reason, second.job.stop_reason)],
      ...ROWS.map(([name, value, words]) => {
        const [one, other] = [first, second].map((panel) => value(panel.usedNow(), panel));
        return [name, words(one), words(other), difference(one, other, words)];
      }),
    ];
    const cells = ([name, ...values]) => element("tr", {}, element("th", { scope: "row" }, name), ...values.map((value) => element("td", { dir: "auto" }, value)));
    this.body.replaceChildren(...rows.map(cells));
  }
  #answers(first, second) {
    if (!isOver(first.job.state) || !isOver(second.job.state)) return "not both are over";
    return sameness(first.job.answer, second.job.answer);
  }
}
function answerOf({ job }) {
  return job.answer === null ? "–" : brief(job.answer, 120);
}
function sameness(one, other) {
  return one === other ? "the same" : "different";
}
function difference(one, other, words) {
  if (one === other) return "the same";
  const sign = other > one ? "+" : "−";
  const share = one > 0 ? ` (${sign}${percent(Math.abs(other - one) / one)})` : "";
  return `${sign}${words(Math.abs(other - one))}${share}`;
}
