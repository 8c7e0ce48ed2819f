// The tree on the screen. Only what lies in or near the visible part is drawn, so that ten thousand nodes scroll well.
import { counted, element, whole } from "./basics.js";
import { dots, edges, nodeGroup } from "./drawing.js";
import { columnOf, fitted, place, SIZES, widthOf } from "./places.js";

const MARGIN = 500; // pixels beyond the visible part that are drawn as well
const LEAST_HEIGHT = 120; // pixels, of a tree that is seen as a whole
const MOST_MARKS = 1500; // beyond these, nodes are dots

function isWithin(inner, outer) {
  return inner.left >= outer.left && inner.top >= outer.top && inner.right <= outer.right && inner.bottom <= outer.bottom;
}

/**
 * Draws a trace into `svg`, which scrolls in `box` below the row `heads`, and says in `shown` how much that is.
 * `onOpen(node, {isByKey})` is called when a node is chosen, `onMove(step)` when time is to be moved by keys.
 */
export class TreeView {
  constructor(trace, { svg, box, heads, shown, onOpen, onMove, height = () => 0.75 * window.innerHeight - 40 }) {
    Object.assign(this, { trace, svg, box, heads, shown, onOpen, onMove, height });
    this.chosenSize = this.size = SIZES[2];
    this.colouring = "answer"; // or a verifier's name
    this.wanted = null; // the class of answers that branches must reach; null for all
    this.folded = new Set(); // nodes whose continuations are not shown
    this.groups = new Map(); // nodes that are elements
    this.near = []; // all nodes that are drawn
    this.laid = { shown: [], height: 0 };
    this.isLaid = new Set(); // the nodes in it
    this.levels = []; // shown nodes of each level, from top to bottom
    this.current = trace.roots[0]; // the node that has, or would get, the focus
    this.opened = null;
    this.area = null; // what is drawn
    this.numNodes = 0; // when it was laid out, folded ones included
    this.#listen();
  }
  #visibleArea() {
    const { scrollLeft: left, scrollTop: top, clientWidth, clientHeight } = this.box;
    return { left, top, right: left + clientWidth, bottom: top + clientHeight };
  }
  /** Lays the tree out anew: after folding, filtering, growth, or a change of size. */
  layOut() {
    const { box, heads, trace } = this;
    this.size = fitted(this.chosenSize, box.clientWidth, trace.depth);
    this.laid = place(this, Math.max(LEAST_HEIGHT, this.height()));
    this.numNodes = trace.nodes.size - trace.roots.length;
    this.isLaid = new Set(this.laid.shown);
    this.levels = Array.from({ length: trace.depth + 1 }, () => []);
    for (const node of this.laid.shown) this.levels[node.depth].push(node);
    const width = widthOf(this.size, trace.depth);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", Math.ceil(this.laid.height));
    heads.style.width = `${width}px`;
    heads.hidden = trace.depth < 2;
    const step = [1, 2, 5, 10, 20, 50, 100].find((levels) => levels * this.size.column >= 26) ?? 200;
    heads.replaceChildren(...this.levels.map((_, level) => level).filter((level) => level > 0 && level % step === 0).map((level) => {
      const head = element("span", {}, this.size.letters > 0 && level === 1 ? "level 1" : `${level}`);
      head.style.left = `${columnOf(this.size, level)}px`;
      return head;
    }));
    this.paint();
  }
  /** Draws what lies in and near the visible part, as it was at the moment. */
  paint({ isAll = false } = {}) {
    const { svg, trace } = this;
    const seen = this.#visibleArea();
    this.area = isAll
      ? { left: 0, top: 0, right: Infinity, bottom: Infinity }
      : { left: seen.left - MARGIN, top: seen.top - MARGIN, right: seen.right + MARGIN, bottom: seen.bottom + MARGIN };
    const { area } = this;
    const hadFocus = svg.contains(document.activeElement);
    while (!trace.isThere(this.current) || !this.isLaid.has(this.current)) this.current = this.current.up ?? trace.roots[0];
    const there = this.laid.shown.filter((node) => trace.isThere(node));
    this.near = there.filter((node) => node.y >= area.top && node.y <= area.bottom && node.x >= area.left - 300 && node.x <= area.right);
    const isCrowded = this.near.length > MOST_MARKS;
    svg.classList.toggle("crowded", isCrowded);
    svg.replaceChildren(...edges(this, there), ...(isCrowded ? dots(this, this.near) : []));
    this.groups.clear();
    const special = (node) => trace.path.has(node.id) || node === this.opened;
    for (const node of new Set([...(isCrowded ? this.near.filter(special) : this.near), this.current])) {
      const group = nodeGroup(this, node);
      this.groups.set(node, group);
      svg.append(group);
    }
    if (hadFocus) this.groups.get(this.current).focus({ preventScroll: true });
    const all = this.numNodes;
    const numThere = there.filter((node) => node.up).length;
    const number = numThere === all ? counted(all, "node", "nodes") : `${whole(numThere)} of ${counted(all, "node", "nodes")}`;
    this.shown.textContent = isCrowded ? `${number}, too many for marks: drawn as dots` : number;
  }
  resize(to) {
    this.chosenSize = SIZES[Math.max(0, Math.min(SIZES.length - 1, to))];
    this.layOut();
  }
  reveal(node) {
    const { box, heads, size } = this;
    const seen = this.#visibleArea();
    const head = heads.hidden ? 0 : heads.clientHeight;
    if (node.y < seen.top + size.row || node.y > seen.bottom - size.row - head) box.scrollTop = node.y - box.clientHeight / 2;
    if (node.x < seen.left + 20) box.scrollLeft = Math.max(0, node.x - 60);
    else if (node.x > seen.right - 90) box.scrollLeft = node.x - box.clientWidth + 150;
  }
  /** Scrolls to what the action has added, if nothing of it can be seen. */
  follow() {
    const { trace } = this;
    const added = this.laid.shown.filter((node) => trace.isNew(node));
    if (added.length === 0) return;
    const seen = this.#visibleArea();
    const isSeen = (node) => node.x > seen.left && node.x < seen.right - 60 && node.y > seen.top && node.y < seen.bottom - 30;
    if (!added.some(isSeen)) this.reveal(added.find((node) => trace.path.has(node.id)) ?? added[0]);
  }
  focusOn(node) {
    this.current = node;
    this.reveal(node);
    this.paint();
    this.groups.get(node).focus({ preventScroll: true });
  }
  toggle(node) {
    if (node.children.length === 0 || node.parent === null) return;
    if (!this.folded.delete(node)) this.folded.add(node);
    this.current = node;
    this.layOut();
  }
  #nearest(x, y) {
    let best = null;
    let least = 26;
    for (const node of this.near) {
      const isOnLabel = !this.size.isWhole && node.shown.length === 0 && x > node.x && x < node.x + 300;
      const distance = Math.hypot(isOnLabel ? 0 : x - node.x, y - node.y);
      if (distance < least) [best, least] = [node, distance];
    }
    return best;
  }
  #listen() {
    const { svg, box } = this;
    svg.addEventListener("click", (event) => {
      const frame = svg.getBoundingClientRect();
      const node = this.#nearest(event.clientX - frame.left, event.clientY - frame.top);
      if (!node) return;
      this.onOpen(node, {});
      this.focusOn(node);
    });
    svg.addEventListener("dblclick", () => this.toggle(this.current));
    svg.addEventListener("keydown", (event) => this.#onKey(event));
    let isWaiting = false;
    box.addEventListener("scroll", () => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        if (this.area && !isWithin(this.#visibleArea(), this.area)) this.paint();
      });
    });
    let width = 0;
    new ResizeObserver(() => {
      if (this.area && box.clientWidth !== width) this.layOut();
      else if (this.area && !isWithin(this.#visibleArea(), this.area)) this.paint();
      width = box.clientWidth;
    }).observe(box);
  }
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey ? this.#moveTime(event.key) : this.#moveFocus(event.key)) event.preventDefault();
  }
  #moveTime(key) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[key];
    if (step !== undefined) this.onMove(step);
    return step !== undefined;
  }
  #moveFocus(key) {
    const { current, trace } = this;
    const level = this.levels[current.depth].filter((node) => trace.isThere(node));
    const index = level.indexOf(current);
    const children = current.shown.filter((node) => trace.isThere(node));
    const targets = {
      ArrowDown: () => level[index + 1],
      ArrowUp: () => level[index - 1],
      PageDown: () => level[Math.min(level.length - 1, index + 10)],
      PageUp: () => level[Math.max(0, index - 10)],
      Home: () => level[0],
      End: () => level[level.length - 1],
      ArrowLeft: () => current.up,
      ArrowRight: () => children.find((child) => trace.path.has(child.id)) ?? children[Math.floor(children.length / 2)],
    };
    if (targets[key]) {
      const target = targets[key]();
      if (target) this.focusOn(target);
    } else if (key === "Enter") this.onOpen(current, { isByKey: true });
    else if (key === " ") this.toggle(current);
    else return false;
    return true;
  }
}
