// Where nodes lie: levels are columns, trajectories are rows. Places do not depend on the moment, so nothing jumps when
// time is moved; branches that were given up in the end get narrow rows.
export const SIZES = [
  { row: 2, minor: 1, column: 40, radius: 3.5, letters: 0, isWhole: true }, // shrunk so that the whole tree is seen
  { row: 12, minor: 7, column: 48, radius: 4, letters: 0 },
  { row: 22, minor: 11, column: 104, radius: 5.5, letters: 13 },
  { row: 30, minor: 20, column: 190, radius: 6.5, letters: 26 },
];
const LEFT = 22;
const LEAF_ROOM = 340;
const WHOLE_ROOM = 96;
const EDGE_ROOM = 8; // above and below a tree that is seen as a whole
const LETTER = 6.6;

/** Nodes on the way to those that state the wanted answer; null for all. */
function reaching(view) {
  if (view.wanted === null) return null;
  const found = new Set();
  for (const node of view.trace.nodes.values()) {
    if (node.answer === null || node.answer_class !== view.wanted) continue;
    for (let step = node; step && !found.has(step); step = step.up) found.add(step);
  }
  return found;
}
/** The size with its columns as wide, or narrow, as there is room for. */
export function fitted(chosen, roomX, depth) {
  const most = (roomX - LEFT - (chosen.letters > 0 ? 200 : WHOLE_ROOM)) / Math.max(1, depth);
  if (chosen.isWhole) return { ...chosen, column: Math.max(3, Math.min(110, most)) };
  const column = depth > 1 ? Math.max(0.8 * chosen.column, Math.min(1.6 * chosen.column, most)) : chosen.column;
  return { ...chosen, column, letters: chosen.letters > 0 ? Math.floor((column - 18) / LETTER) : 0 };
}
export function widthOf(size, depth) {
  return LEFT + depth * size.column + (size.isWhole ? WHOLE_ROOM - 4 : LEAF_ROOM);
}
export function columnOf(size, level) {
  return LEFT + level * size.column;
}
/** Gives each shown node x, y and `shown` (its shown children); returns them from top to bottom, and the height. */
export function place(view, roomY) {
  const { trace, folded } = view;
  const size = view.size;
  const reached = reaching(view);
  const shown = [];
  const stack = trace.roots.filter((root, index) => index === 0 || !reached || reached.has(root)).reverse();
  let y = size.row * 0.8;
  while (stack.length > 0) {
    const node = stack.pop();
    shown.push(node);
    node.x = columnOf(size, node.depth);
    node.shown = folded.has(node) ? [] : node.children.filter((child) => !reached || reached.has(child));
    if (node.shown.length === 0) {
      const height = node.given_up !== null && !trace.path.has(node.id) && !folded.has(node) ? size.minor : size.row;
      node.y = y + height / 2;
      y += height;
    }
    for (let index = node.shown.length - 1; index >= 0; index--) stack.push(node.shown[index]);
  }
  for (let index = shown.length - 1; index >= 0; index--) { // children come after their parents
    const node = shown[index];
    if (node.shown.length > 0) node.y = (node.shown[0].y + node.shown[node.shown.length - 1].y) / 2;
  }
  const height = y + size.row * 0.6;
  if (!size.isWhole) return { shown, height };
  const scale = Math.min(5, (roomY - 2 * EDGE_ROOM) / height);
  for (const node of shown) node.y = EDGE_ROOM + node.y * scale;
  view.size = { ...size, row: size.row * scale, minor: size.minor * scale, radius: Math.max(1, Math.min(3.5, size.row * scale * 0.4)) };
  return { shown, height: height * scale + 2 * EDGE_ROOM };
}
/** Nodes below a folded one. */
export function numBelow(node) {
  const stack = [node];
  let count = -1;
  while (stack.length > 0) {
    count++;
    for (const child of stack.pop().children) stack.push(child);
  }
  return count;
}
/** Folds branches of which nothing is left, at their tops; they are what large trees mostly consist of. */
export function foldGivenUp(view) {
  for (const node of view.trace.nodes.values()) {
    if (node.given_up !== null && node.children.length > 0 && node.up.given_up === null) view.folded.add(node);
  }
}
