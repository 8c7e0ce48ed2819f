// A tree with all that belongs to it: time, tools, the text of a node, the legend. A page may have several.
import { element } from "./basics.js";
import { Detail } from "./detail.js";
import { showLegend } from "./legend.js";
import { foldGivenUp, SIZES } from "./places.js";
import { TimeBar } from "./time.js";
import { TreeView } from "./tree.js";

const NARROW_PX = 736;
const HINT = "Choose a node to read it. Keys: ← → along a branch, ↑ ↓ within a level, Enter reads, Space folds, Shift with ← → moves time, Escape closes.";

/** `prefix` keeps the ids of several cards on one page apart; `height()` is how high the tree may be, in pixels. */
export class TreeCard {
  constructor(trace, { prefix = "", title = "Tree", height, onTime = () => {} } = {}) {
    this.trace = trace;
    this.hasChosenSize = this.hasChosenColour = false;
    this.isFollowing = true; // what is added is shown as it comes
    const parts = (this.parts = madeParts((name) => `${prefix}${name}`, title));
    this.section = parts.section;
    this.view = new TreeView(trace, {
      svg: parts.svg, box: parts.box, heads: parts.heads, shown: parts.shown, height,
      onOpen: (node, how) => this.detail.open(node, how),
      onMove: (step) => this.time.go(trace.moment + step),
    });
    this.detail = new Detail(this.view, parts);
    this.time = new TimeBar(this.view, { ...parts, onGo: () => {
      this.isFollowing = trace.isAtEnd;
      onTime();
      if (this.view.opened && this.detail.isOpen) this.detail.refresh();
    } });
    this.#listen();
  }
  #listen() {
    const { parts, view } = this;
    parts.colour.addEventListener("change", () => {
      this.hasChosenColour = true;
      view.colouring = parts.colour.value;
      showLegend(view, parts.legend);
      view.paint();
    });
    const step = (by) => {
      this.hasChosenSize = true;
      this.resize(SIZES.indexOf(view.chosenSize) + by);
    };
    parts.smaller.addEventListener("click", () => step(-1));
    parts.larger.addEventListener("click", () => step(1));
    parts.folder.addEventListener("change", () => {
      if (parts.folder.checked) foldGivenUp(view);
      else view.folded.clear();
      view.layOut();
    });
    this.section.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.detail.isOpen) this.detail.close();
    });
  }
  resize(to) {
    const { parts, trace, view } = this;
    view.resize(to);
    parts.smaller.disabled = view.chosenSize === SIZES[0];
    parts.larger.disabled = view.chosenSize === SIZES[SIZES.length - 1];
    const end = [...trace.path].pop();
    view.reveal(view.current.up ? view.current : trace.nodes.get(end) ?? view.current);
  }
  /** The first picture, once the section is in the page. */
  show() {
    const { parts, trace, view } = this;
    this.#offerColours();
    this.#fit();
    parts.box.scrollTop = parts.box.scrollLeft = 0;
    this.time.go(trace.last);
  }
  /** After the trace has grown. */
  grown() {
    const { isFollowing, trace, view } = this;
    this.#offerColours();
    if (isFollowing) trace.moment = trace.last;
    if (this.hasChosenSize) view.layOut();
    else this.#fit();
    if (isFollowing) view.follow();
    this.time.tell();
    if (view.opened && this.detail.isOpen) this.detail.refresh();
  }
  #offerColours() {
    const { parts, trace, view } = this;
    const names = ["answer", ...trace.verifiers];
    if (parts.colour.childElementCount !== names.length) {
      const option = (name) => element("option", { value: name }, name === "answer" ? name : `score by ${name}`);
      parts.colour.replaceChildren(...names.map(option));
      if (!this.hasChosenColour && trace.isSearch && trace.verifiers.length > 0) view.colouring = trace.verifiers[0];
      parts.colour.value = view.colouring;
    }
    parts.foldLabel.hidden = ![...trace.nodes.values()].some((node) => node.given_up !== null && node.children.length > 0);
    showLegend(view, parts.legend);
  }
  #fit() {
    const { trace, view } = this;
    this.resize(window.innerWidth < NARROW_PX && trace.depth > 3 ? 0 : 2);
    if (trace.isSearch && view.laid.height > 1.4 * this.parts.box.clientHeight) this.resize(0);
  }
}
function madeParts(id, title) {
  const button = (name, text, attributes = {}) => element("button", { type: "button", id: id(name), ...attributes }, text);
  const play = button("play", "▶ play");
  const back = button("back", "◀", { class: "step", "aria-label": "one action back" });
  const slider = element("input", { type: "range", id: id("moment"), min: "0", max: "1", step: "1", "aria-label": "actions done" });
  const forth = button("forth", "▶", { class: "step", "aria-label": "one action on" });
  const when = element("p", { class: "when", id: id("when") });
  const now = element("p", { class: "now", id: id("now") });
  const colour = element("select", { id: id("colour") });
  const smaller = button("smaller", "−", { "aria-label": "smaller" });
  const larger = button("larger", "+", { "aria-label": "larger" });
  const folder = element("input", { type: "checkbox", id: id("fold") });
  const foldLabel = element("label", { id: id("fold-label") }, folder, " fold what was given up");
  const shown = element("span", { class: "shown", id: id("shown"), role: "status" });
  const heads = element("div", { class: "heads", id: id("heads"), "aria-hidden": "true" });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const names = { id: id("tree"), class: "tree", role: "tree", "aria-labelledby": id("h-tree"), "aria-describedby": id("tree-hint") };
  for (const [name, value] of Object.entries(names)) svg.setAttribute(name, value);
  const box = element("div", { class: "scroll tree-box", id: id("scroll") }, heads, svg);
  const beside = madeDetail(id, button);
  const legend = element("ul", { class: "legend", id: id("legend"), "aria-label": "legend" });
  const section = element("section", { class: "card wide", "aria-labelledby": id("h-tree") },
    element("h2", { id: id("h-tree") }, title),
    element("div", { class: "time", role: "group", "aria-label": "time" }, play, back, slider, forth),
    when, now,
    element("div", { class: "tools" },
      element("label", {}, "Colour by ", colour),
      element("span", { class: "pair", role: "group", "aria-label": "size" }, smaller, larger), foldLabel, shown),
    element("div", { class: "split" }, box, beside.aside),
    legend, element("p", { class: "hint", id: id("tree-hint") }, HINT));
  return { section, play, back, slider, forth, when, now, colour, smaller, larger, folder, foldLabel, shown, heads, svg, box, legend, ...beside };
}
function madeDetail(id, button) {
  const title = element("h3", { id: id("d-title") });
  const fold = button("d-fold", "fold");
  const close = button("d-close", "✕", { "aria-label": "close" });
  const facts = element("dl", { id: id("d-facts") });
  const whole = element("input", { type: "checkbox", id: id("d-whole") });
  const text = element("div", { class: "text node-text", id: id("d-text"), dir: "auto", tabindex: "0", role: "region", "aria-label": "text of the node" });
  const aside = element("aside", { class: "detail", id: id("detail"), hidden: "", tabindex: "-1", "aria-labelledby": id("d-title") },
    element("div", { class: "detail-head" }, title, element("span", { class: "pair" }, fold, close)),
    facts, element("div", { class: "tools" }, element("label", {}, whole, " from the beginning")), text);
  return { aside, title, facts, fold, close, whole, text };
}
