// One job as it goes on: its state, answer, rivals, spend and tree, kept up to date from its events.
import { call, jobPath } from "./api.js";
import { AnswerCard, VotesCard } from "./answer.js";
import { eventsOf } from "./events.js";
import { Growth, MOST_NODES } from "./growth.js";
import { element, whole } from "./page/basics.js";
import { TreeCard } from "./page/card.js";
import { failed, loading } from "./states.js";
import { SpendCard } from "./spend.js";
import { UsageSum } from "./usage_sum.js";
import { WaitingCard } from "./waiting.js";
import { isOver } from "./words.js";

const SHORTEST_PAUSE_MS = 120;
const MOST_SHARE = 0.25; // of the time may be spent on drawing
const POLL_MS = 2000;

export class Panel {
  /** `onJob(job)` is told the job when it is there and whenever it has changed; `prefix` keeps ids apart. */
  constructor(jobId, { signal, prefix = "", title = "Tree", treeHeight, onJob = () => {}, onUsage = () => {} }) {
    Object.assign(this, { jobId, signal, prefix, title, treeHeight, onJob, onUsage });
    this.element = element("div", { class: "panel" }, loading("Loading the job…"));
    this.job = null;
    this.timer = null;
    this.isPainting = this.isPolling = false;
  }
  /** Loads the job and follows it until it is over, or the signal ends that. */
  async run() {
    try {
      this.job = await call("GET", jobPath(this.jobId), { signal: this.signal });
      this.#build();
      const clock = setInterval(() => this.#tick(), 1000);
      this.signal.addEventListener("abort", () => clearInterval(clock));
      await this.#follow();
      clearInterval(clock);
    } catch (error) {
      if (!this.signal.aborted) this.element.replaceChildren(failed(error, () => this.run()));
    }
  }
  #build() {
    const id = (name) => `${this.prefix}${name}`;
    this.growth = new Growth([["user", this.job.problem]]);
    this.usage = new UsageSum();
    this.written = "";
    this.rowAt = Date.now();
    this.answer = new AnswerCard(id("h-answer"));
    this.spend = new SpendCard(id("h-spend"));
    this.tree = new TreeCard(this.growth.trace, { prefix: this.prefix, title: this.title, height: this.treeHeight });
    this.votes = new VotesCard(id("h-votes"), (answer) => {
      this.tree.view.wanted = answer;
      this.tree.view.layOut();
    });
    this.waiting = new WaitingCard(id("h-waiting"), this.jobId, () => this.#setState("queued"));
    this.stream = element("p", { class: "stream", role: "status" });
    this.tail = element("p", { class: "tail", "aria-hidden": "true", dir: "auto" });
    this.tail.hidden = isOver(this.job.state);
    this.note = element("p", { class: "hint" });
    this.tree.parts.now.after(this.tail);
    this.tree.parts.legend.before(this.note);
    this.element.replaceChildren(this.stream, this.waiting.section, this.answer.section, this.votes.section, this.spend.section, this.tree.section);
    this.tree.show();
    this.#paint();
    this.onJob(this.job);
  }
  async #follow() {
    const onConnection = (isUp, why) => {
      this.stream.textContent = isUp ? "" : `${why} Connecting again…`;
    };
    if (this.job.state === "waiting") this.#poll();
    for await (const event of eventsOf(this.jobId, { signal: this.signal, onConnection })) this.#take(event);
    if (this.signal.aborted) return;
    this.job = await call("GET", jobPath(this.jobId), { signal: this.signal });
    this.growth.choose(this.job.result?.node);
    this.#paint();
    this.onJob(this.job);
  }
  #take({ kind, data }) {
    this.growth.take(kind, data);
    this.usage.take(kind, data);
    if (typeof data.t === "number") this.rowAt = Date.now();
    if (kind === "answer_delta") this.written += data.text;
    if (this.job.state === "queued" || (this.job.state === "waiting" && kind === "done")) this.#setState("running");
    if (kind === "begin" && data.action?.type === "AskHuman") this.#poll();
    if (kind === "final") this.#setState(data.result?.state ?? "succeeded", data.result);
    this.#paintSoon();
  }
  /** Somebody has asked for its end. */
  noteCancel() {
    this.job = { ...this.job, is_cancel_wanted: true };
    this.onJob(this.job);
  }
  #setState(state, result = null) {
    if (isOver(this.job.state)) return;
    const told = result === null ? {} : { answer: result.answer, confidence: result.confidence, confidence_kind: result.confidence_kind, stop_reason: result.stop_reason, limited_by: result.limited_by, error: result.error, result };
    this.job = { ...this.job, state, ...told };
    this.onJob(this.job);
    this.#paint();
  }
  /** Whether a job waits for a person is no event: it is asked until it does, or goes on. */
  async #poll() {
    if (this.isPolling) return;
    this.isPolling = true;
    for (let tries = 0; tries < 30 && !this.signal.aborted && !isOver(this.job.state); tries++) {
      try {
        const job = await call("GET", `${jobPath(this.jobId)}?wait=1`, { signal: this.signal });
        if (!isOver(this.job.state)) {
          this.job = job;
          this.onJob(job);
          this.#paint();
        }
        if (job.state === "waiting") break;
      } catch (error) {
        if (error.status >= 400 && error.status < 500) break;
      }
      await new Promise((over) => setTimeout(over, POLL_MS));
    }
    this.isPolling = false;
  }
  #paintSoon() {
    if (this.isPainting) return;
    this.isPainting = true;
    const began = performance.now();
    this.timer = setTimeout(() => requestAnimationFrame(() => {
      if (this.signal.aborted) return;
      const start = performance.now();
      this.tree.grown();
      this.#paint();
      this.isPainting = false;
      this.lastMs = performance.now() - start;
    }), Math.max(SHORTEST_PAUSE_MS, (this.lastMs ?? 0) / MOST_SHARE) - (performance.now() - began));
  }
  /** All but the tree. */
  #paint() {
    const { growth, job } = this;
    const votes = growth.votes;
    this.answer.show(job, { soFar: growth.best ?? votes[0]?.answer, written: this.written });
    this.votes.show(votes, growth.trace.rankOf, job.result?.alternatives ?? []);
    this.waiting.show(job);
    this.#tick();
    const writing = this.usage.writing;
    const last = [...writing.values()].pop();
    this.tail.textContent = isOver(job.state) ? " " : writing.size > 0 ? `writing ${whole(writing.size)}, ${whole(this.usage.tokensInFlight)} tokens: ${last.tail.slice(-160)}` : " ";
    if (growth.numLeftOut > 0) this.note.textContent = `Only the first ${whole(MOST_NODES)} nodes are shown; ${whole(growth.numLeftOut)} more are not.`;
  }
  #tick() {
    const usage = this.usedNow();
    this.spend.show(usage, this.job.budget);
    this.onUsage(usage);
  }
  usedNow() {
    if (isOver(this.job.state)) return this.job.usage ?? this.usage.total;
    const sinceRow = this.job.state === "running" ? (Date.now() - this.rowAt) / 1000 : 0;
    return { ...this.usage.total, wall_s: this.growth.elapsedS + sinceRow };
  }
}
