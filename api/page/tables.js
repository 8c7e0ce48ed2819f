// Below the tree: tables, the levels, the actions on a time line.
import { brief, byId, counted, element, saved, seconds, whole } from "./basics.js";

export function table(target, titles, rows) {
  const isNumber = (index) => rows.length > 0 && typeof rows[0][index] === "number";
  const head = element("tr");
  titles.forEach((title, index) => {
    head.append(element("th", { scope: "col", class: isNumber(index) ? "number" : "words" }, title));
  });
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    for (const cell of row) {
      line.append(typeof cell === "number" ? element("td", { class: "number" }, whole(cell)) : element("td", {}, cell));
    }
    body.append(line);
  }
  target.append(element("thead", {}, head), body);
}

// ---- levels ----------------------------------------------------------------------------------------------------
/** Two lengths in one bar: tokens held, within those that copies would take. */
function kvBar(level, most) {
  const bar = element("span", { class: "kv", "aria-hidden": "true" });
  for (const [name, tokens] of [["unshared", level.unshared_tokens], ["kept", level.kept_tokens]]) {
    const part = element("span", { class: name });
    part.style.width = `${(100 * tokens) / Math.max(1, most)}%`;
    bar.append(part);
  }
  return bar;
}
function becameBar(level) {
  const bar = element("span", { class: "became", "aria-hidden": "true" });
  const parts = { continued: level.num_continued, finished: level.num_finished, gone: level.num_given_up, rest: restOf(level) };
  for (const [name, count] of Object.entries(parts)) {
    const part = element("span", { class: name });
    part.style.flexGrow = count;
    if (count > 0) bar.append(part);
  }
  return bar;
}
function restOf(level) {
  return level.num_nodes - level.num_continued - level.num_finished - level.num_given_up;
}
/** Fills the table of levels and the reasons for which trajectories were given up. */
export function showLevels(trace, levels) {
  const most = levels.reduce((high, level) => Math.max(high, level.unshared_tokens), 0);
  const columns = [
    ["level", (level) => level.level],
    ["nodes", (level) => level.num_nodes],
    ["", becameBar],
    ["continued", (level) => level.num_continued],
    ["given up", (level) => level.num_given_up],
    ["finished", (level) => level.num_finished],
    ["not continued", restOf],
    ["tokens written", (level) => level.output_tokens],
    ["prompt tokens read", (level) => level.prompt_tokens],
    ["verifier tokens", (level) => level.verifier_tokens],
    ["time", (level) => seconds(level.wall_s)],
    ["KV tokens kept", (level) => level.kept_tokens],
    ["if not shared", (level) => level.unshared_tokens],
    ["saved", (level) => saved(level.kept_tokens, level.unshared_tokens)],
    ["", (level) => kvBar(level, most)],
  ].filter(([, value]) => levels.some((level) => value(level) !== 0));
  table(byId("levels"), columns.map(([title]) => title), levels.map((level) => columns.map(([, value]) => value(level))));
  const reasons = new Map();
  for (const node of trace.nodes.values()) {
    if (node.given_up === null || node.children.length > 0) continue;
    const reason = node.given_up.reason || "the policy gave no reason";
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  }
  for (const [reason, count] of reasons) byId("reasons").append(element("li", {}, `${counted(count, "trajectory", "trajectories")} given up: ${reason}`));
}

// ---- actions ---------------------------------------------------------------------------------------------------
const MOST_BARS = 3000;

/** Draws the actions as bars in time, one lane for each type; `onChoose(position)` is called when one is chosen. */
export class Lanes {
  constructor(actions, box, { wallS, onChoose }) {
    this.actions = actions;
    this.span = actions.reduce((latest, note) => Math.max(latest, note.end_s ?? note.start_s), Math.max(0.001, wallS));
    this.cursor = element("span", { class: "cursor" });
    const lanes = new Map();
    for (const note of actions.slice(0, MOST_BARS)) {
      if (!lanes.has(note.type)) {
        const track = element("div", { class: "track" });
        box.append(element("div", { class: "lane" }, element("span", {}, note.type), track));
        lanes.set(note.type, track);
      }
      lanes.get(note.type).append(this.#bar(note, onChoose));
    }
    const scale = element("div", { class: "axis" }, element("span", {}, "0 s"), element("span", {}, seconds(this.span)));
    box.append(element("div", { class: "lane" }, element("span"), scale), element("div", { class: "cursor-track" }, this.cursor));
  }
  #bar(note, onChoose) {
    const bar = element("span", { title: brief(`${note.position} ${note.type} ${note.words}`, 120) });
    if (note.error !== null) bar.classList.add("failed");
    bar.style.left = `${Math.min(99.5, (100 * note.start_s) / this.span)}%`;
    bar.style.width = `${(100 * ((note.end_s ?? this.span) - note.start_s)) / this.span}%`;
    bar.addEventListener("click", () => onChoose(note.position));
    return bar;
  }
  /** Marks the time after that many actions. */
  point(moment) {
    const note = this.actions[Math.min(moment, this.actions.length) - 1];
    this.cursor.style.left = `${Math.min(100, (100 * (note ? note.end_s ?? this.span : 0)) / this.span)}%`;
  }
}
export function showActions(actions, target) {
  table(target, ["#", "action", "what", "from", "to", "samples", "tokens", "refused"], actions.map((note) => [
    note.position, note.type, brief(note.words, 200), seconds(note.start_s),
    note.end_s === null ? "under way" : seconds(note.end_s), note.num_samples, note.output_tokens, note.error ?? "",
  ]));
}
