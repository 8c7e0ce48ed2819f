// KV tokens of the open trajectories of a tree: each prefix once, and as if each trajectory had a copy of its own.
export class Kv {
  constructor() {
    this.heldTokens = this.unsharedTokens = 0;
  }
  begin(node, tokens) {
    Object.assign(node, { tokens, numOpen: 0 });
  }
  /** The length of a conversation, once somebody has read it. */
  learn(root, tokens) {
    root.tokens = tokens;
    this.unsharedTokens += root.numOpen * tokens;
    this.heldTokens += root.numOpen > 0 ? tokens : 0;
  }
  /** Adds to the open trajectories on the way to a leaf. */
  count(leaf, opened) {
    for (let step = leaf; step; step = step.up) {
      const wasHeld = step.numOpen > 0;
      step.numOpen += opened;
      this.unsharedTokens += opened * step.tokens;
      this.heldTokens += ((step.numOpen > 0) - wasHeld) * step.tokens;
    }
  }
}
