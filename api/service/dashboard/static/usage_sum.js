// What a job has spent so far, from its events: settled rows, and the tokens of samples that are being written.
const PEAKS = new Set(["peak_parallel_sequences", "peak_kv_cells", "max_sequential_tokens"]);
const MOST_TAIL_CHARS = 400;

export class UsageSum {
  constructor() {
    this.settled = {};
    this.writing = new Map(); // ids of nodes to {tokens, tail}
  }
  take(kind, data) {
    if (data.usage && kind !== "spent") this.#add(data.usage);
    if (kind === "sample") this.writing.delete(`${data.a}.${data.i}`);
    else if (kind === "mark") this.#mark(data);
    else if (kind === "delta") this.#write(data);
    else if (kind === "done" || kind === "lost") this.#forget(data);
    else if (kind === "final") {
      this.writing.clear();
      this.settled = data.result?.usage ?? this.settled;
    }
  }
  get tokensInFlight() {
    let sum = 0;
    for (const { tokens } of this.writing.values()) sum += tokens;
    return sum;
  }
  /** As a usage; samples that are being written are counted with the tokens that are there. */
  get total() {
    const { settled } = this;
    return { ...settled, output_tokens: (settled.output_tokens ?? 0) + this.tokensInFlight };
  }
  #add(usage) {
    const { settled } = this;
    for (const [name, value] of Object.entries(usage)) {
      if (typeof value !== "number") continue;
      settled[name] = PEAKS.has(name) ? Math.max(settled[name] ?? 0, value) : (settled[name] ?? 0) + value;
    }
  }
  #mark({ a, tokens = {} }) {
    for (const [unit, count] of Object.entries(tokens)) {
      const known = this.writing.get(`${a}.${unit}`) ?? { tokens: 0, tail: "" };
      this.writing.set(`${a}.${unit}`, { ...known, tokens: Math.max(known.tokens, count) });
    }
  }
  #write({ node, text, tokens, starts_over: startsOver }) {
    const known = startsOver ? undefined : this.writing.get(node);
    const tail = ((known?.tail ?? "") + text).slice(-MOST_TAIL_CHARS);
    this.writing.set(node, { tokens: (known?.tokens ?? 0) + tokens, tail });
  }
  /** What an action that is over was writing is settled, or lost. */
  #forget({ a }) {
    for (const id of this.writing.keys()) if (a === undefined || id.startsWith(`${a}.`)) this.writing.delete(id);
  }
}
