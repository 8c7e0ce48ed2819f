// The tree on the screen. Only what lies in or near the visible part is drawn, so that ten thousand nodes scroll well.
const svg = byId("tree");
const box = byId("scroll");
const heads = byId("heads");
const MARGIN = 500; // pixels beyond the visible part that are drawn as well
const MOST_PASSING_EDGES = 1500;
const MOST_MARKS = 1500; // beyond these, nodes are dots
const groups = new Map(); // nodes that are elements
let near = []; // all nodes that are drawn
let chosenSize = size;
let laid = { shown: [], height: 0 };
let isLaid = new Set(); // the nodes in it
let levels = []; // shown nodes of each level, from top to bottom
let current = roots[0]; // the node that has, or would get, the focus
let opened = null;
let area = null; // what is drawn

function visibleArea() {
  return { left: box.scrollLeft, top: box.scrollTop, right: box.scrollLeft + box.clientWidth, bottom: box.scrollTop + box.clientHeight };
}
function isWithin(inner, outer) {
  return inner.left >= outer.left && inner.top >= outer.top && inner.right <= outer.right && inner.bottom <= outer.bottom;
}
/** Lays the tree out anew: after folding, filtering, or a change of size. */
function layOut() {
  size = fitted(chosenSize, box.clientWidth);
  laid = place(0.75 * window.innerHeight - 40);
  isLaid = new Set(laid.shown);
  levels = Array.from({ length: depth + 1 }, () => []);
  for (const node of laid.shown) levels[node.depth].push(node);
  const width = LEFT + depth * size.column + (size.isWhole ? WHOLE_ROOM - 4 : LEAF_ROOM);
  svg.setAttribute("width", width);
  svg.setAttribute("height", Math.ceil(laid.height));
  heads.style.width = `${width}px`;
  heads.hidden = depth < 2;
  const step = [1, 2, 5, 10, 20, 50, 100].find((levels) => levels * size.column >= 26) ?? 200;
  heads.replaceChildren(...levels.map((_, level) => level).filter((level) => level > 0 && level % step === 0).map((level) => {
    const head = element("span", {}, size.letters > 0 && level === 1 ? "level 1" : `${level}`);
    head.style.left = `${LEFT + level * size.column}px`;
    return head;
  }));
  paint();
}
function edge(node) {
  const [from, to] = [node.up, node];
  const middle = to.x - size.column / 2;
  return `M${from.x} ${from.y}C${middle} ${from.y} ${middle} ${to.y} ${to.x} ${to.y}`;
}
function edges(there) {
  const kinds = { "edge gone": [], edge: [], "edge path": [] };
  const passing = [];
  for (const node of there) {
    const top = Math.min(node.y, node.up?.y ?? node.y), bottom = Math.max(node.y, node.up?.y ?? node.y);
    if (!node.up || bottom < area.top || top > area.bottom || node.x < area.left || node.up.x > area.right) continue;
    const isNear = node.y >= area.top && node.y <= area.bottom;
    if (path.has(node.id)) kinds["edge path"].push(node);
    else if (isNear) kinds[isGivenUp(node) ? "edge gone" : "edge"].push(node);
    else passing.push(node);
  }
  const step = Math.ceil(passing.length / MOST_PASSING_EDGES); // more of them would look the same
  for (let index = 0; index < passing.length; index += step) {
    kinds[isGivenUp(passing[index]) ? "edge gone" : "edge"].push(passing[index]);
  }
  return Object.entries(kinds).map(([kind, ends]) => drawn("path", { class: kind, d: ends.map(edge).join(""), "aria-hidden": "true" }));
}
function nodeGroup(node) {
  const state = stateOf(node);
  const isEnd = node.shown.length === 0;
  const classes = ["node", path.has(node.id) ? "path" : "", isNew(node) || isJustGivenUp(node) ? "new" : "", node === opened ? "open" : "", state === "given up" ? "gone" : ""];
  const group = drawn("g", {
    class: classes.filter(Boolean).join(" "),
    role: "treeitem",
    tabindex: node === current ? "0" : "-1",
    "aria-level": node.depth + 1,
    "aria-label": spoken(node, state),
    transform: `translate(${node.x} ${node.y})`,
  });
  if (node.children.length > 0) group.setAttribute("aria-expanded", String(!folded.has(node)));
  const radius = isLow(node) ? Math.min(size.radius, size.minor * 0.4) : size.radius;
  group.append(drawn("circle", { class: "ring", r: radius + 4 }), mark(state, fillOf(node, state), radius));
  const label = labelOf(node, state);
  if (label !== "") {
    const place = isEnd ? { x: radius + 6, y: 4 } : { x: radius, y: -radius - 1 };
    group.append(drawn("text", { class: isLow(node) ? "name low" : "name", ...place }, label));
  }
  group.append(drawn("title", {}, spoken(node, state)));
  return group;
}
/** Many nodes as a few elements: those of one colour are one path. */
function dots(crowd) {
  const colours = new Map();
  const side = Math.max(2.2, 1.8 * size.radius);
  for (const node of crowd) {
    const colour = fillOf(node, stateOf(node)).colour;
    if (!colours.has(colour)) colours.set(colour, []);
    colours.get(colour).push(`M${node.x - side / 2} ${node.y - side / 2}h${side}v${side}h${-side}z`);
  }
  const goneFirst = [...colours].sort(([a], [b]) => (b === "var(--gone)") - (a === "var(--gone)"));
  return goneFirst.map(([colour, squares]) => {
    const made = drawn("path", { class: "dots", d: squares.join(""), "aria-hidden": "true" });
    made.style.fill = colour;
    return made;
  });
}
/** Draws what lies in and near the visible part, as it was at the moment. */
function paint({ isAll = false } = {}) {
  const seen = visibleArea();
  area = isAll
    ? { left: 0, top: 0, right: Infinity, bottom: Infinity }
    : { left: seen.left - MARGIN, top: seen.top - MARGIN, right: seen.right + MARGIN, bottom: seen.bottom + MARGIN };
  const hadFocus = svg.contains(document.activeElement);
  while (!isThere(current) || !isLaid.has(current)) current = current.up ?? roots[0];
  const there = laid.shown.filter(isThere);
  near = there.filter((node) => node.y >= area.top && node.y <= area.bottom && node.x >= area.left - 300 && node.x <= area.right);
  const isCrowded = near.length > MOST_MARKS;
  svg.classList.toggle("crowded", isCrowded);
  svg.replaceChildren(...edges(there), ...(isCrowded ? dots(near) : []));
  groups.clear();
  for (const node of new Set([...(isCrowded ? near.filter((other) => path.has(other.id) || other === opened) : near), current])) {
    const group = nodeGroup(node);
    groups.set(node, group);
    svg.append(group);
  }
  if (hadFocus) groups.get(current).focus({ preventScroll: true });
  const all = data.nodes.length - roots.length;
  const numThere = there.filter((node) => node.up).length;
  byId("shown").textContent = numThere === all ? counted(all, "node", "nodes") : `${whole(numThere)} of ${counted(all, "node", "nodes")}`;
}
function reveal(node) {
  const seen = visibleArea();
  const head = heads.hidden ? 0 : heads.clientHeight;
  if (node.y < seen.top + size.row || node.y > seen.bottom - size.row - head) box.scrollTop = node.y - box.clientHeight / 2;
  if (node.x < seen.left + 20) box.scrollLeft = Math.max(0, node.x - 60);
  else if (node.x > seen.right - 90) box.scrollLeft = node.x - box.clientWidth + 150;
}
function focusOn(node) {
  current = node;
  reveal(node);
  paint();
  groups.get(node).focus({ preventScroll: true });
}
function toggle(node) {
  if (node.children.length === 0 || node.parent === null) return;
  if (!folded.delete(node)) folded.add(node);
  current = node;
  layOut();
}
function nearest(x, y) {
  let best = null;
  let least = 26;
  for (const node of near) {
    const isOnLabel = !size.isWhole && node.shown.length === 0 && x > node.x && x < node.x + 300;
    const distance = Math.hypot(isOnLabel ? 0 : x - node.x, y - node.y);
    if (distance < least) [best, least] = [node, distance];
  }
  return best;
}
svg.addEventListener("click", (event) => {
  const frame = svg.getBoundingClientRect();
  const node = nearest(event.clientX - frame.left, event.clientY - frame.top);
  if (!node) return;
  open(node);
  focusOn(node);
});
svg.addEventListener("dblclick", () => toggle(current));
svg.addEventListener("keydown", (event) => {
  if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
  const level = levels[current.depth].filter(isThere);
  const index = level.indexOf(current);
  const children = current.shown.filter(isThere);
  const targets = {
    ArrowDown: () => level[index + 1],
    ArrowUp: () => level[index - 1],
    PageDown: () => level[Math.min(level.length - 1, index + 10)],
    PageUp: () => level[Math.max(0, index - 10)],
    Home: () => level[0],
    End: () => level[level.length - 1],
    ArrowLeft: () => current.up,
    ArrowRight: () => children.find((child) => path.has(child.id)) ?? children[Math.floor(children.length / 2)],
  };
  if (targets[event.key]) {
    const target = targets[event.key]();
    if (target) focusOn(target);
  } else if (event.key === "Enter") open(current, { isByKey: true });
  else if (event.key === " ") toggle(current);
  else return;
  event.preventDefault();
});
let isWaiting = false;
box.addEventListener("scroll", () => {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    if (!isWithin(visibleArea(), area)) paint();
  });
});
let width = box.clientWidth;
new ResizeObserver(() => {
  if (!area) return;
  if (box.clientWidth !== width) layOut();
  else if (!isWithin(visibleArea(), area)) paint();
  width = box.clientWidth;
}).observe(box);
window.addEventListener("beforeprint", () => paint({ isAll: true }));
window.addEventListener("afterprint", () => paint());
