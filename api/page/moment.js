// The tree as it was when a number of actions had been done: what was there, how it stood, how it was scored.
const LAST = data.nodes.reduce((most, node) => Math.max(most, node.born + 1), data.actions.length);
let moment = LAST;

for (const node of nodes.values()) {
  node.continuedBy = node.children.reduce((first, child) => Math.min(first, child.born), Infinity);
}
function isThere(node) {
  return node.born < moment;
}
function isNew(node) {
  return moment < LAST && node.born === moment - 1;
}
function isGivenUp(node) {
  return node.given_up !== null && node.given_up.action < moment;
}
function isJustGivenUp(node) {
  return moment < LAST && node.given_up !== null && node.given_up.action === moment - 1;
}
/** The last score that had been given, or undefined. */
function scoreOf(node, verifier) {
  const given = (node.scores[verifier] ?? []).filter(([action]) => action < moment);
  return given.length > 0 ? given[given.length - 1][1] : undefined;
}
/** One of: root, given up, continued, finished, cut, open. */
function stateOf(node) {
  if (node.parent === null) return "root";
  if (isGivenUp(node)) return "given up";
  if (node.continuedBy < moment) return "continued";
  if (node.is_final) return "finished";
  return node.finish === "stop" || node.finish === null ? "open" : "cut";
}
/** What became of a node, in words. */
function fateOf(node) {
  switch (stateOf(node)) {
    case "given up": return `given up${node.given_up.reason ? `: ${node.given_up.reason}` : ""}`;
    case "continued": return "continued";
    case "finished": return "finished";
    case "cut": return data.finish_words[node.finish] ?? node.finish;
    case "open": return moment === LAST ? "not continued" : "open";
    default: return node.id === "0" ? "the problem" : `another conversation: ${node.messages[node.messages.length - 1]?.[1] ?? ""}`;
  }
}

const frames = [{ num_nodes: 0, depth: 0, num_open: 0, num_finished: 0, num_given_up: 0, held_tokens: 0, unshared_tokens: 0, best: null }, ...data.frames];
/** The numbers after as many actions as have a frame. */
function frameNow() {
  return frames[Math.min(moment, frames.length - 1)];
}
