// What of a tree becomes which SVG element: edges, groups of one node, dots for crowds.
import { drawn } from "./basics.js";
import { fillOf, isLow, labelOf, mark, spoken } from "./marks.js";

const MOST_PASSING_EDGES = 1500;

function edge(node, size) {
  const [from, to] = [node.up, node];
  const middle = to.x - size.column / 2;
  return `M${from.x} ${from.y}C${middle} ${from.y} ${middle} ${to.y} ${to.x} ${to.y}`;
}
export function edges(view, there) {
  const { area, trace } = view;
  const kinds = { "edge gone": [], edge: [], "edge path": [] };
  const passing = [];
  for (const node of there) {
    const top = Math.min(node.y, node.up?.y ?? node.y), bottom = Math.max(node.y, node.up?.y ?? node.y);
    if (!node.up || bottom < area.top || top > area.bottom || node.x < area.left || node.up.x > area.right) continue;
    const isNear = node.y >= area.top && node.y <= area.bottom;
    if (trace.path.has(node.id)) kinds["edge path"].push(node);
    else if (isNear) kinds[trace.isGivenUp(node) ? "edge gone" : "edge"].push(node);
    else passing.push(node);
  }
  const step = Math.ceil(passing.length / MOST_PASSING_EDGES); // more of them would look the same
  for (let index = 0; index < passing.length; index += step) {
    kinds[trace.isGivenUp(passing[index]) ? "edge gone" : "edge"].push(passing[index]);
  }
  return Object.entries(kinds).map(([kind, ends]) => {
    const d = ends.map((end) => edge(end, view.size)).join("");
    return drawn("path", { class: kind, d, "aria-hidden": "true" });
  });
}
export function nodeGroup(view, node) {
  const { size, trace } = view;
  const state = trace.stateOf(node);
  const isEnd = node.shown.length === 0;
  const isFresh = trace.isNew(node) || trace.isJustGivenUp(node);
  const classes = ["node", trace.path.has(node.id) ? "path" : "", isFresh ? "new" : "", node === view.opened ? "open" : "", state === "given up" ? "gone" : ""];
  const group = drawn("g", {
    class: classes.filter(Boolean).join(" "),
    role: "treeitem",
    tabindex: node === view.current ? "0" : "-1",
    "aria-level": node.depth + 1,
    "aria-label": spoken(view, node, state),
    transform: `translate(${node.x} ${node.y})`,
  });
  if (node.children.length > 0) group.setAttribute("aria-expanded", String(!view.folded.has(node)));
  const isNarrow = isLow(view, node);
  const radius = isNarrow ? Math.min(size.radius, size.minor * 0.4) : size.radius;
  group.append(drawn("circle", { class: "ring", r: radius + 4 }), mark(state, fillOf(view, node, state), radius));
  const label = labelOf(view, node, state);
  if (label !== "") {
    const place = isEnd ? { x: radius + 6, y: 4 } : { x: radius, y: -radius - 1 };
    group.append(drawn("text", { class: isNarrow ? "name low" : "name", ...place }, label));
  }
  group.append(drawn("title", {}, spoken(view, node, state)));
  return group;
}
/** Many nodes as a few elements: those of one colour are one path. */
export function dots(view, crowd) {
  const colours = new Map();
  const side = Math.max(2.2, 1.8 * view.size.radius);
  for (const node of crowd) {
    const colour = fillOf(view, node, view.trace.stateOf(node)).colour;
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
