// The list of jobs: filter by state and text, open, cancel, choose two to compare.
import { call, jobPath } from "./api.js";
import { brief, counted, element, whole } from "./page/basics.js";
import { button, empty, failed, loading, say } from "./states.js";
import { confidenceBrief, dollars, isOver, stateChip, STATES, time, totalTokens, usd } from "./words.js";

const PAGE = 50;
const REFRESH_MS = 4000;
const wanted = { state: "", text: "" }; // stays while this page is open
const chosen = new Set(); // ids of jobs to compare

export async function showJobs(main, { signal }) {
  const list = new List(main, signal);
  await list.refresh();
  while (!signal.aborted) {
    await new Promise((over) => setTimeout(over, REFRESH_MS));
    if (!signal.aborted && document.visibilityState === "visible") await list.refresh();
  }
}

class List {
  constructor(main, signal) {
    this.signal = signal;
    this.jobs = []; // newest first
    this.cursor = null;
    this.body = element("div", {}, loading("Loading jobs…"));
    this.count = element("span", { class: "hint", role: "status" });
    this.compare = button("Compare the two", () => { location.hash = `#/compare/${[...chosen].map(encodeURIComponent).join("/")}`; });
    const state = element("select", { id: "f-state" }, element("option", { value: "" }, "any state"), ...Object.keys(STATES).map((name) => element("option", { value: name }, name)));
    state.value = wanted.state;
    state.addEventListener("change", () => {
      wanted.state = state.value;
      this.jobs = [];
      this.#put(loading("Loading jobs…"));
      this.refresh();
    });
    const text = element("input", { type: "search", id: "f-text", placeholder: "problem, answer, policy, label, id", "data-filter": "" });
    text.value = wanted.text;
    text.addEventListener("input", () => { wanted.text = text.value; this.#show(); });
    main.replaceChildren(
      element("h1", {}, "Jobs"),
      element("div", { class: "filters" },
        element("label", { class: "field inline", for: "f-state" }, element("span", {}, "State"), state),
        element("label", { class: "field inline grows", for: "f-text" }, element("span", {}, "Text"), text), this.compare, this.count),
      this.body);
    this.#offerCompare();
  }
  /** Asks for the newest jobs; older ones that are loaded stay. */
  async refresh() {
    const state = wanted.state;
    try {
      const page = await this.#page(null);
      if (this.signal.aborted || state !== wanted.state) return;
      const oldest = page.data[page.data.length - 1]?.id ?? "";
      const older = page.next_cursor === null ? [] : this.jobs.filter((job) => job.id < oldest);
      if (older.length === 0) this.cursor = page.next_cursor;
      this.jobs = [...page.data, ...older];
      this.#show();
    } catch (error) {
      if (this.signal.aborted) return;
      if (this.jobs.length === 0) this.#put(failed(error, () => this.refresh()));
      else this.count.textContent = `${error.message} The list is not up to date.`;
    }
  }
  /** Something in place of the table. */
  #put(state) {
    this.known = null;
    this.body.replaceChildren(state);
  }
  #page(cursor) {
    const query = new URLSearchParams({ limit: String(PAGE) });
    if (wanted.state) query.set("state", wanted.state);
    if (cursor) query.set("cursor", cursor);
    return call("GET", `/v1/jobs?${query}`, { signal: this.signal });
  }
  async #more() {
    try {
      const page = await this.#page(this.cursor);
      this.cursor = page.next_cursor;
      this.jobs = [...this.jobs, ...page.data];
      this.#show();
    } catch (error) {
      say(error.message);
    }
  }
  #show() {
    const text = wanted.text.trim().toLowerCase();
    const found = this.jobs.filter((job) => text === "" || searched(job).includes(text));
    this.count.textContent = text === "" && this.cursor === null
      ? counted(found.length, "job", "jobs") : `${whole(found.length)} of ${counted(this.jobs.length, "job", "jobs")} loaded`;
    const state = JSON.stringify([found, this.cursor]);
    if (state === this.known) return;
    this.known = state;
    const focused = document.activeElement?.dataset?.focus;
    this.body.replaceChildren(...(found.length > 0 ? [this.#table(found)] : [this.#none()]));
    if (this.cursor !== null) this.body.append(element("p", { class: "buttons" }, button("Load older jobs", () => this.#more())));
    if (focused) this.body.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  }
  #none() {
    if (this.jobs.length === 0 && wanted.state === "") return empty("There are no jobs yet.", element("p", {}, element("a", { class: "button primary", href: "#/" }, "Submit the first one")));
    return empty("No job that is loaded fits. Change the filter, or load older jobs.");
  }
  #table(jobs) {
    const titles = ["", "State", "Problem", "Answer", "Confidence", "Spent", "Policy", "Created", ""];
    const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
    head.firstChild.append(element("span", { class: "hidden" }, "Compare"));
    head.lastChild.append(element("span", { class: "hidden" }, "Cancel"));
    return element("table", { class: "jobs" }, element("thead", {}, head), element("tbody", {}, ...jobs.map((job) => this.#row(job))));
  }
  #row(job) {
    const box = element("input", { type: "checkbox", "aria-label": "compare this job", "data-focus": `box ${job.id}` });
    box.checked = chosen.has(job.id);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(job.id);
      else chosen.delete(job.id);
      if (chosen.size > 2) chosen.delete(chosen.values().next().value);
      this.known = null;
      this.#show();
      this.#offerCompare();
    });
    const link = element("a", { href: `#/jobs/${encodeURIComponent(job.id)}`, dir: "auto", "data-focus": `link ${job.id}` }, brief(job.problem, 120) || "(empty)");
    const usage = job.usage ?? {};
    const cost = job.usage ? `${whole(totalTokens(usage))} tokens${usage.picodollars ? ` · ${dollars(usd(usage))}` : ""}` : "–";
    const cell = (name, label, ...children) => element("td", { class: name, "data-label": label }, ...children);
    return element("tr", {}, cell("pick", "", box), cell("state-cell", "State", stateChip(job.state, { isCancelWanted: job.is_cancel_wanted })),
      cell("problem-cell", "Problem", link), cell("answer-cell", "Answer", element("span", { dir: "auto" }, job.answer === null ? "–" : brief(job.answer, 60))),
      cell("confidence-cell", "Confidence", confidenceBrief(job)), cell("spent-cell", "Spent", cost), cell("policy-cell", "Policy", job.policy), cell("created-cell", "Created", time(job.created_at)), cell("cancel-cell", "", ...this.#cancel(job)));
  }
  #cancel(job) {
    if (isOver(job.state) || job.is_cancel_wanted) return [];
    const cancel = button("Cancel", async () => {
      cancel.disabled = true;
      await cancelJob(job.id);
      await this.refresh();
    }, { "data-focus": `cancel ${job.id}`, "aria-label": `Cancel the job: ${brief(job.problem, 60)}` });
    return [cancel];
  }
  #offerCompare() {
    this.compare.disabled = chosen.size !== 2;
    this.compare.title = chosen.size === 2 ? "" : "Tick two jobs first";
  }
}
/** Whether the job's end could be asked for. */
export async function cancelJob(id) {
  try {
    await call("DELETE", jobPath(id));
    say("The job ends with its best answer so far.");
    return true;
  } catch (error) {
    say(error.message);
    return false;
  }
}
function searched(job) {
  return [job.id, job.problem.slice(0, 10_000), job.answer ?? "", job.policy, ...Object.entries(job.labels).flat()].join("\n").toLowerCase();
}
