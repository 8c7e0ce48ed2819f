// A job's tree and its actions, and how both stood when a number of actions had been done. It may still grow.
const FINISH_WORDS = {
  end: "the model ended",
  stop: "stop string",
  length: "cut: too long",
  monitor: "ended by a monitor",
  cancelled: "cancelled",
  tool_call: "asks for a tool",
};
const NO_FRAME = { num_nodes: 0, depth: 0, num_open: 0, num_finished: 0, num_given_up: 0, held_tokens: 0, unshared_tokens: 0, best: null };

export function finishWords(finish) {
  return FINISH_WORDS[finish] ?? finish;
}

/**
 * Nodes have: id, parent (an id or null), messages, text, forced, model, finish, finish_detail, output_tokens, logprob,
 * answer, answer_class, scores (by verifier: [action, score] in order), born, is_final, given_up (null or {action,
 * reason}); and, once added, up, depth, children and continuedBy.
 */
export class Trace {
  constructor({ isLive = false } = {}) {
    this.nodes = new Map();
    this.roots = [];
    this.path = new Set(); // ids of the nodes on the chosen path
    this.rankOf = new Map(); // classes of answers to numbers, which choose their colours
    this.verifiers = [];
    this.actions = [];
    this.frames = [NO_FRAME];
    this.depth = 0;
    this.isSearch = false;
    this.isLive = isLive; // more may come
    this.moment = 0; // actions done at the time that is shown
    this.lastBorn = -1;
    this.frameNow = () => this.frames[this.frames.length - 1]; // in the middle of an action
  }
  /** A trace that is over, from the data that the server side makes of a story. */
  static of(data) {
    const trace = new Trace();
    for (const node of data.nodes) trace.add(node);
    trace.path = new Set(data.path);
    trace.rankOf = new Map(data.votes.map((vote, rank) => [vote.answer, rank]));
    trace.actions = data.actions;
    trace.frames = [NO_FRAME, ...data.frames];
    trace.isSearch = data.is_search;
    trace.moment = trace.last;
    return trace;
  }
  add(data) {
    const parent = data.parent === null ? null : this.nodes.get(data.parent);
    const node = { ...data, up: parent, depth: parent ? parent.depth + 1 : 0, children: [], continuedBy: Infinity };
    this.nodes.set(node.id, node);
    (parent ? parent.children : this.roots).push(node);
    if (parent) parent.continuedBy = Math.min(parent.continuedBy, node.born);
    this.depth = Math.max(this.depth, node.depth);
    this.lastBorn = Math.max(this.lastBorn, node.born);
    for (const name of Object.keys(node.scores)) this.noteVerifier(name);
    return node;
  }
  noteVerifier(name) {
    if (!this.verifiers.includes(name)) this.verifiers.push(name);
  }
  get last() {
    return Math.max(this.lastBorn + 1, this.actions.length);
  }
  get isAtEnd() {
    return this.moment >= this.last;
  }
  /** What is asked of the tree as it is at its end. */
  atEnd(ask) {
    const now = this.moment;
    this.moment = this.last;
    const answer = ask();
    this.moment = now;
    return answer;
  }
  isThere(node) {
    return node.born < this.moment;
  }
  isNew(node) {
    return this.#isFresh(node.born);
  }
  isGivenUp(node) {
    return node.given_up !== null && node.given_up.action < this.moment;
  }
  isJustGivenUp(node) {
    return node.given_up !== null && this.#isFresh(node.given_up.action);
  }
  #isFresh(action) {
    return (this.isLive || !this.isAtEnd) && action === this.moment - 1;
  }
  /** The last score that had been given, or undefined. */
  scoreOf(node, verifier) {
    const given = node.scores[verifier] ?? [];
    for (let index = given.length - 1; index >= 0; index--) if (given[index][0] < this.moment) return given[index][1];
    return undefined;
  }
  /** One of: root, given up, continued, finished, cut, open. */
  stateOf(node) {
    if (node.parent === null) return "root";
    if (this.isGivenUp(node)) return "given up";
    if (node.continuedBy < this.moment) return "continued";
    if (node.is_final) return "finished";
    return node.finish === "stop" || node.finish === null ? "open" : "cut";
  }
  /** What became of a node, in words. */
  fateOf(node) {
    switch (this.stateOf(node)) {
      case "given up": return `given up${node.given_up.reason ? `: ${node.given_up.reason}` : ""}`;
      case "continued": return "continued";
      case "finished": return "finished";
      case "cut": return finishWords(node.finish);
      case "open": return this.isAtEnd && !this.isLive ? "not continued" : "open";
      default: return node.id === "0" ? "the problem" : `another conversation: ${node.messages[node.messages.length - 1]?.[1] ?? ""}`;
    }
  }
  /** The numbers after as many actions as have a frame. */
  get frame() {
    if (this.isLive && this.isAtEnd) return this.frameNow();
    return this.frames[Math.min(this.moment, this.frames.length - 1)];
  }
}
