// What the other parts build on: elements, the data, the nodes of the tree. Texts come from models and callers: they
// only ever become text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const NUM_ANSWER_COLOURS = 8;
const NUM_SCORE_COLOURS = 11;

function byId(id) {
  return document.getElementById(id);
}
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function drawn(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}
function brief(text, width) {
  const line = text.slice(0, 8 * width).replace(/\s+/g, " ").trim();
  const letters = Array.from(line);
  return letters.length <= width ? line : letters.slice(0, width - 1).join("") + "…";
}
function addFact(list, name, value) {
  list.append(element("dt", {}, name), element("dd", { dir: "auto" }, value));
}
function whole(number) {
  return number.toLocaleString("en");
}
function counted(number, one, many) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}
function seconds(value) {
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} s`;
}
function score(value) {
  return value.toFixed(2);
}
function saved(shared, unshared) {
  return unshared > 0 ? `${Math.round(100 * (1 - shared / unshared))} %` : "–";
}

const nodes = new Map(data.nodes.map((node) => [node.id, { ...node, children: [] }]));
const roots = [];
for (const node of nodes.values()) {
  const parent = node.parent === null ? null : nodes.get(node.parent);
  node.up = parent;
  node.depth = parent ? parent.depth + 1 : 0;
  (parent ? parent.children : roots).push(node);
}
const path = new Set(data.path);
const depth = data.nodes.reduce((most, node) => Math.max(most, nodes.get(node.id).depth), 0);
const verifiers = [...new Set(data.nodes.flatMap((node) => Object.keys(node.scores)))];
