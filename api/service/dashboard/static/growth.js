// From the events of a job to its trace: what `api/growth.py` and `api/story.py` do, as it happens, and held equal to
// them by tests. Nodes beyond the first MOST_NODES are counted and left out.
import { Trace } from "./page/trace.js";
import { actionWords } from "./actions.js";
import { Kv } from "./kv.js";

export const MOST_NODES = 20_000;
const DEFAULTS = { messages: [], text: "", forced: "", model: "", finish: null, finish_detail: null, output_tokens: 0, logprob: null, answer: null, answer_class: null };

export class Growth {
  constructor(messages) {
    this.trace = new Trace({ isLive: true });
    this.trace.frameNow = () => this.#frame();
    this.action = 0; // the one under way
    this.best = null; // the answer that was proposed last
    this.result = null;
    this.elapsedS = 0; // on the job's clock
    this.numLeftOut = 0;
    this.answerCounts = new Map(); // by class
    this.open = new Map(); // ends of trajectories that may go on
    this.childless = new Map(); // kept, though all that continued them was given up
    this.numNodes = this.depth = this.numFinished = this.numGivenUp = 0;
    this.kv = new Kv();
    this.#addRoot({ id: "0", parent: null, messages }, -1);
  }
  /** Takes an event of the journal; those that do not change the tree are ignored. */
  take(kind, data) {
    for (const root of data.roots ?? []) this.#addRoot(root, this.action);
    if (typeof data.a === "number") this.#note(kind, data);
    if (typeof data.t === "number") this.elapsedS = Math.max(this.elapsedS, data.t);
    if (kind === "sample" && data.node) this.#add(data.node, data.usage?.prompt_tokens ?? 0);
    else if (kind === "done") this.#done(data);
    else if (kind === "final") this.#final(data.result);
  }
  /** Answers by the number of nodes that state them, most first. */
  get votes() {
    const winner = this.trace.nodes.get([...this.trace.path].pop());
    const chosen = winner ? winner.answer_class : null;
    const ordered = [...this.answerCounts].sort(([, a], [, b]) => b - a);
    return ordered.map(([answer, count]) => ({ answer, num_samples: count, is_chosen: answer === chosen }));
  }
  #note(kind, data) {
    const { actions } = this.trace;
    let note = actions[data.a];
    if (data.action && !note) {
      note = { position: data.a, type: data.action.type, words: actionWords(data.action), start_s: this.elapsedS };
      actions[data.a] = Object.assign(note, { end_s: null, num_samples: 0, output_tokens: 0, error: null });
    }
    if (!note) return;
    if (kind === "sample") note.num_samples++;
    note.output_tokens += data.usage?.output_tokens ?? 0;
    if (kind !== "done") return;
    note.end_s = Math.max(note.start_s, data.t ?? 0);
    note.error = data.error?.message ?? null;
  }
  #done(data) {
    const { action, outcome = {} } = data;
    if (outcome.node) this.#add(outcome.node, 0);
    if (action.type === "Release") this.#release(action.all_but, { action: data.a, reason: action.reason ?? "" });
    else if (action.type === "Propose") this.best = action.answer.text;
    else if (action.type === "Score") this.#score(data.a, action, outcome);
    this.#classify(data, outcome);
    this.action = data.a + 1;
    this.trace.frames.push(this.#frame());
  }
  #final(result) {
    this.result = result;
    this.trace.isLive = false;
    this.choose(result?.node);
    this.trace.rankOf.clear(); // colours of answers now follow their votes
    for (const [rank, { answer }] of this.votes.entries()) this.trace.rankOf.set(answer, rank);
  }
  /** Marks the way to the node that states the answer. */
  choose(id) {
    const path = [];
    for (let node = this.trace.nodes.get(id); node; node = node.up) path.unshift(node.id);
    this.trace.path = new Set(path);
  }
  #score(position, action, outcome) {
    const { trace } = this;
    action.nodes.forEach((id, index) => {
      const value = outcome.scores?.[index], node = trace.nodes.get(id);
      if (value === null || value === undefined || !node) return;
      trace.noteVerifier(action.verifier);
      (node.scores[action.verifier] ??= []).push([position, value]);
    });
  }
  #classify(data, outcome) {
    const told = outcome.units?.map(([unit, name]) => [`${data.a}.${unit}`, name])
      ?? (outcome.unit !== undefined && outcome.unit !== null ? [[`${data.action.stream ?? data.a}.${outcome.unit}`, outcome.class ?? null]] : []);
    for (const [id, name] of told) {
      const node = this.trace.nodes.get(id);
      if (node && name !== null && node.answer_class !== name) {
        this.#count(node, -1);
        node.answer_class = name;
        this.#count(node, 1);
      }
    }
  }
  #count(node, by) {
    if (node.answer === null) return;
    const count = (this.answerCounts.get(node.answer_class) ?? 0) + by;
    if (count === 0) this.answerCounts.delete(node.answer_class);
    else this.answerCounts.set(node.answer_class, count);
    const { rankOf } = this.trace;
    if (!rankOf.has(node.answer_class)) rankOf.set(node.answer_class, rankOf.size);
  }
  #frame() {
    return {
      num_nodes: this.numNodes, depth: this.depth, num_open: this.open.size, num_finished: this.numFinished,
      num_given_up: this.numGivenUp, held_tokens: this.kv.heldTokens, unshared_tokens: this.kv.unsharedTokens, best: this.best,
    };
  }

  // ---- what changes the tree -----------------------------------------------------------------------------------

  #made(data, born) {
    const isFinal = data.finish === "end" || (data.finish === "monitor" && data.finish_detail === "answer_complete");
    const { token_ids: _, ...told } = data;
    const node = { ...DEFAULTS, ...told, scores: {}, born, is_final: isFinal, given_up: null };
    node.answer_class ??= node.answer;
    return node;
  }
  #addRoot(data, born) {
    if (!this.trace.nodes.has(data.id)) this.kv.begin(this.trace.add(this.#made(data, born)), 0);
  }
  #add(data, promptTokens) {
    const { trace } = this;
    const parent = trace.nodes.get(data.parent);
    if (trace.nodes.has(data.id)) return;
    if (!parent || trace.nodes.size >= MOST_NODES) {
      this.numLeftOut++;
      return;
    }
    const wasLeaf = parent.up !== null && parent.children.length === 0;
    const wasOpen = this.#isOpen(parent);
    if (parent.up === null && promptTokens && !parent.tokens && !data.forced) this.kv.learn(parent, promptTokens);
    trace.isSearch ||= parent.up !== null && parent.children.length > 0;
    if (wasLeaf) {
      this.numFinished -= parent.is_final;
      this.numGivenUp -= parent.given_up !== null;
      this.kv.count(parent, -Number(wasOpen));
      this.open.delete(parent.id);
    }
    this.#revive(parent);
    const node = trace.add(this.#made(data, this.action));
    this.kv.begin(node, node.output_tokens);
    this.numNodes++;
    this.depth = Math.max(this.depth, node.depth);
    this.numFinished += node.is_final;
    if (this.#isOpen(node)) this.open.set(node.id, node);
    this.kv.count(node, Number(this.#isOpen(node)));
    this.#count(node, 1);
  }
  #isOpen(node) {
    return node.up !== null && node.children.length === 0 && !node.is_final && node.finish !== "cancelled" && node.given_up === null;
  }
  /** A branch that was given up is taken up again, and so is the way to it. */
  #revive(branch) {
    for (let step = branch; step && step.given_up !== null; step = step.up) step.given_up = null;
  }
  #release(keptIds, givenUp) {
    const kept = new Set();
    for (const id of keptIds) for (let step = this.trace.nodes.get(id); step && !kept.has(step); step = step.up) kept.add(step);
    const dropped = [...this.open.values()].filter((leaf) => !kept.has(leaf));
    for (const leaf of dropped) {
      this.kv.count(leaf, -1);
      this.open.delete(leaf.id);
      this.#giveUp(leaf, givenUp, kept);
    }
    for (const branch of [...this.childless.values()].filter((one) => !kept.has(one))) {
      if (isDead(branch)) this.#giveUp(branch, givenUp, kept);
      this.childless.delete(branch.id);
    }
    this.numGivenUp += dropped.length;
    this.trace.isSearch ||= dropped.length > 0;
  }
  /** Gives up a branch, and those above it of which nothing is left. */
  #giveUp(branch, givenUp, kept) {
    for (let step = branch; step && step.up !== null && step.given_up === null && isDead(step); step = step.up) {
      if (kept.has(step)) {
        this.childless.set(step.id, step);
        return;
      }
      step.given_up = givenUp;
    }
  }
}
/** Whether nothing that continues it is left. */
function isDead(node) {
  return node.children.every((child) => child.given_up !== null);
}
