"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const ROW = 28, COLUMN = window.innerWidth < 736 ? 92 : 132, LEFT = 18, NUM_COLOURS = 8;
  const byId = (id) => document.getElementById(id);

  // Texts come from models and callers: they only ever become text nodes.
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
    const line = text.replace(/\s+/g, " ").trim();
    const letters = Array.from(line);
    return letters.length <= width ? line : letters.slice(0, width - 1).join("") + "…";
  }
  function addFact(list, name, value) {
    list.append(element("dt", {}, name), element("dd", { dir: "auto" }, value));
  }

  // ---- nodes -------------------------------------------------------------------------------------------------
  const nodes = new Map(data.nodes.map((node) => [node.id, { ...node, children: [] }]));
  const roots = [];
  for (const node of nodes.values()) {
    const parent = node.parent === null ? null : nodes.get(node.parent);
    node.depth = parent ? parent.depth + 1 : 0;
    (parent ? parent.children : roots).push(node);
  }
  const path = new Set(data.path);
  const rankOf = new Map(data.votes.map((vote, rank) => [vote.answer, rank]));
  const verifiers = [...new Set(data.nodes.flatMap((node) => Object.keys(node.scores)))];
  let wanted = null; // the answer that branches must reach; null for all
  let colouring = "answer";
  let opened = null;
  let order = []; // visible nodes from top to bottom
  const groups = new Map();

  function colourOfAnswer(answer) {
    const rank = rankOf.get(answer);
    return rank === undefined ? "var(--none)" : rank < NUM_COLOURS ? `var(--c${rank})` : "var(--soft)";
  }
  function colourOf(node) {
    if (colouring === "answer") return node.answer === null ? "var(--none)" : colourOfAnswer(node.answer_class);
    const score = node.scores[colouring];
    return score === undefined ? "var(--none)" : `hsl(${Math.round(score * 130)} 65% 45%)`;
  }
  function words(node) {
    const parts = [];
    if (node.answer !== null) parts.push(node.answer);
    for (const [name, score] of Object.entries(node.scores)) {
      parts.push(verifiers.length === 1 ? score.toFixed(2) : `${name} ${score.toFixed(2)}`);
    }
    if (node.finish !== null && node.finish !== "end") parts.push(data.finish_words[node.finish] ?? node.finish);
    return parts;
  }

  // ---- head --------------------------------------------------------------------------------------------------
  byId("job").textContent = data.kicker;
  const question = byId("question");
  question.textContent = data.problem;
  if (data.problem.length > 600) {
    question.classList.add("folded");
    byId("more").hidden = false;
    byId("more").addEventListener("click", () => {
      const isFolded = question.classList.toggle("folded");
      byId("more").textContent = isFolded ? "show all" : "show less";
    });
  }
  const answer = byId("answer");
  answer.textContent = data.answer ?? "no answer";
  if (data.answer === null) answer.classList.add("muted");
  for (const [name, value] of data.facts) addFact(byId("facts"), name, value);

  // ---- votes -------------------------------------------------------------------------------------------------
  const most = Math.max(1, ...data.votes.map((vote) => vote.num_samples));
  const buttons = [];
  for (const vote of data.votes) {
    const button = element("button", { type: "button", class: "vote", "aria-pressed": "false" });
    const bar = element("span", { class: "bar" });
    const fill = element("span");
    fill.style.width = `${(100 * vote.num_samples) / most}%`;
    fill.style.background = colourOfAnswer(vote.answer);
    bar.append(fill);
    const count = `${vote.num_samples}${vote.is_chosen ? " ★" : ""}`;
    button.append(element("span", { class: "name", dir: "auto" }, brief(vote.answer, 60)), bar, element("span", {}, count));
    button.setAttribute("aria-label", `${brief(vote.answer, 60)}: ${vote.num_samples}${vote.is_chosen ? ", chosen" : ""}`);
    button.addEventListener("click", () => {
      wanted = wanted === vote.answer ? null : vote.answer;
      for (const [other, name] of buttons) other.setAttribute("aria-pressed", String(wanted === name));
      draw();
    });
    buttons.push([button, vote.answer]);
    byId("votes").append(button);
  }
  if (data.votes.length === 0) byId("votes-hint").textContent = "No text states an answer.";

  // ---- spend -------------------------------------------------------------------------------------------------
  for (const cap of data.caps) {
    const bar = element("div", { class: "bar" });
    const fill = element("span", cap.share >= 0.98 ? { class: "full" } : {});
    fill.style.width = `${Math.min(100, 100 * cap.share)}%`;
    bar.append(fill);
    const line = element("p", {}, element("span", {}, cap.name), element("span", {}, cap.words));
    byId("caps").append(element("div", { class: "cap" }, line, bar));
  }
  if (data.caps.length === 0) byId("caps").append(element("p", { class: "hint" }, "The job had no caps."));

  // ---- tree --------------------------------------------------------------------------------------------------
  const svg = byId("tree");

  function reaches(node) {
    if (wanted === null) return true;
    return node.answer_class === wanted || node.children.some(reaches);
  }
  /** Leaves take rows from the top; a node lies between its first and its last child. */
  function placed() {
    let row = 0.3;
    const visible = [];
    const visit = (node) => {
      visible.push(node);
      const children = node.children.filter(reaches);
      node.shown = children;
      node.x = LEFT + node.depth * COLUMN;
      if (children.length === 0) {
        node.y = ROW * (row++ + 0.7);
        return;
      }
      children.forEach(visit);
      node.y = (children[0].y + children[children.length - 1].y) / 2;
      if (children.length === 1) row += 0.35; // room for a label above a straight line
    };
    roots.filter((root, index) => index === 0 || reaches(root)).forEach(visit);
    return { visible, height: Math.max(1, row) * ROW + 12 };
  }
  function mark(finish, colour) {
    const style = { class: "mark" };
    const shapes = {
      length: () => drawn("rect", { ...style, x: -6, y: -6, width: 12, height: 12 }),
      stop: () => drawn("path", { ...style, d: "M0-8L8 0L0 8L-8 0Z" }),
      monitor: () => drawn("path", { ...style, d: "M0-8L8 6L-8 6Z" }),
      tool_call: () => drawn("path", { ...style, d: "M-4-7L4-7L8 0L4 7L-4 7L-8 0Z" }),
    };
    const made = shapes[finish] ? shapes[finish]() : drawn("circle", { ...style, r: 7 });
    if (finish === "cancelled") {
      made.classList.add("hollow");
      if (colour) made.style.stroke = colour;
    } else if (colour) made.style.fill = colour;
    return made;
  }
  function nodeGroup(node) {
    const isLeaf = node.shown.length === 0;
    const isRoot = node.parent === null;
    const group = drawn("g", {
      class: "node",
      role: "treeitem",
      tabindex: "-1",
      "aria-level": node.depth + 1,
      transform: `translate(${node.x} ${node.y})`,
    });
    if (!isLeaf) group.setAttribute("aria-expanded", "true");
    const said = isRoot ? [node.id === "0" ? "the problem" : "another conversation"] : words(node);
    const spoken = [`node ${node.id}`, ...said, `${node.output_tokens} tokens`];
    if (path.has(node.id)) spoken.push("on the chosen path");
    group.setAttribute("aria-label", brief(spoken.join(", "), 300));
    const width = isLeaf ? 420 : 26;
    group.append(drawn("rect", { class: "hit", x: -13, y: -ROW / 2 + 1, width, height: ROW - 2, rx: 5 }));
    group.append(mark(isRoot ? "end" : node.finish, isRoot ? "var(--soft)" : colourOf(node)));
    const star = path.has(node.id) && !isRoot ? "★ " : "";
    const place = isLeaf ? { x: 14, y: 4.5 } : { x: -4, y: -11 }; // edges leave inner nodes to the right
    const shown = isLeaf || isRoot ? said.join(" · ") : said.slice(0, node.finish === "end" ? 2 : said.length - 1).join(" · ");
    const label = star + brief(shown || `node ${node.id}`, isLeaf ? 52 : 15);
    const name = drawn("text", { class: "name", ...place }, label);
    if (path.has(node.id)) group.classList.add("path");
    if (shown === "") name.classList.add("soft");
    group.append(name);
    group.addEventListener("click", () => { focusOn(node); open(node); });
    return group;
  }
  function draw() {
    const { visible, height } = placed();
    const deepest = Math.max(...visible.map((node) => node.depth));
    svg.setAttribute("width", LEFT + deepest * COLUMN + 430);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    groups.clear();
    for (const node of visible) {
      for (const child of node.shown) {
        const middle = (node.x + child.x) / 2;
        const isPath = path.has(node.id) && path.has(child.id);
        const d = `M${node.x} ${node.y}C${middle} ${node.y} ${middle} ${child.y} ${child.x} ${child.y}`;
        svg.append(drawn("path", { class: isPath ? "edge path" : "edge", d, "aria-hidden": "true" }));
      }
    }
    for (const node of visible) {
      const group = nodeGroup(node);
      groups.set(node.id, group);
      svg.append(group);
    }
    order = [...visible].sort((a, b) => a.y - b.y || a.x - b.x);
    const leaves = visible.filter((node) => node.shown.length === 0).length;
    const all = data.nodes.length;
    byId("shown").textContent = `${visible.length === all ? all : `${visible.length} of ${all}`} nodes, ${leaves} leaves`;
    const first = opened && groups.has(opened.id) ? opened : visible[0];
    groups.get(first.id).setAttribute("tabindex", "0");
    if (opened && groups.has(opened.id)) groups.get(opened.id).classList.add("open");
  }
  function focusOn(node) {
    for (const group of groups.values()) group.setAttribute("tabindex", "-1");
    const group = groups.get(node.id);
    group.setAttribute("tabindex", "0");
    group.focus({ preventScroll: true });
    const box = byId("scroll");
    if (node.y < box.scrollTop + ROW || node.y > box.scrollTop + box.clientHeight - ROW) {
      box.scrollTop = node.y - box.clientHeight / 2;
    }
    if (node.x < box.scrollLeft + 40 || node.x > box.scrollLeft + box.clientWidth - 120) {
      box.scrollLeft = Math.max(0, node.x - 60);
    }
  }
  svg.addEventListener("keydown", (event) => {
    const current = order.find((node) => groups.get(node.id) === document.activeElement);
    if (!current) return;
    const index = order.indexOf(current);
    const targets = {
      ArrowDown: () => order[index + 1],
      ArrowUp: () => order[index - 1],
      ArrowLeft: () => nodes.get(current.parent),
      ArrowRight: () => current.shown[0],
      Home: () => order[0],
      End: () => order[order.length - 1],
    };
    if (targets[event.key]) {
      const target = targets[event.key]();
      if (target) focusOn(target);
    } else if (event.key === "Enter" || event.key === " ") open(current, { isByKey: true });
    else return;
    event.preventDefault();
  });

  // ---- one node ----------------------------------------------------------------------------------------------
  function open(node, { isByKey = false } = {}) {
    for (const group of groups.values()) group.classList.remove("open");
    groups.get(node.id)?.classList.add("open");
    opened = node;
    byId("d-title").textContent = node.parent === null ? (node.id === "0" ? "The problem" : "Another conversation") : `Node ${node.id}`;
    const facts = byId("d-facts");
    facts.replaceChildren();
    if (node.answer !== null) addFact(facts, "answer", node.answer);
    for (const [name, score] of Object.entries(node.scores)) addFact(facts, `score by ${name}`, score.toFixed(4));
    if (node.model) addFact(facts, "model", node.model);
    if (node.parent !== null) {
      addFact(facts, "tokens", `${node.output_tokens}`);
      addFact(facts, "depth", `${node.depth}`);
    }
    if (node.finish !== null) {
      const detail = node.finish_detail ? ` (${JSON.stringify(node.finish_detail)})` : "";
      addFact(facts, "ended", (data.finish_words[node.finish] ?? node.finish) + detail);
    }
    if (node.logprob !== null) addFact(facts, "log probability", node.logprob.toFixed(3));
    showText();
    const aside = byId("detail");
    aside.hidden = false;
    aside.scrollTop = 0;
    if (isByKey) aside.focus();
  }
  function showText() {
    const text = byId("d-text");
    text.replaceChildren();
    const chain = [];
    for (let node = opened; node; node = nodes.get(node.parent)) chain.unshift(node);
    for (const node of byId("d-whole").checked ? chain : [opened]) {
      for (const [role, content] of node.messages) text.append(element("span", { class: "turn" }, role), content);
      if (node.parent !== null) {
        if (chain[1] === node && byId("d-whole").checked) text.append(element("span", { class: "turn" }, "assistant"));
        if (node.forced) text.append(element("span", { class: "forced", title: "put there, not generated" }, node.forced));
        text.append(node.text.slice(node.forced.length));
      }
    }
  }
  function close() {
    byId("detail").hidden = true;
    const node = opened;
    opened = null;
    for (const group of groups.values()) group.classList.remove("open");
    if (node && groups.has(node.id)) focusOn(node);
  }
  byId("d-close").addEventListener("click", close);
  byId("d-whole").addEventListener("change", showText);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("detail").hidden) close();
  });

  // ---- colours and legend ------------------------------------------------------------------------------------
  const choice = byId("colour");
  choice.append(element("option", { value: "answer" }, "answer"));
  for (const name of verifiers) choice.append(element("option", { value: name }, `score by ${name}`));
  choice.addEventListener("change", () => { colouring = choice.value; draw(); });
  const finishes = new Set(data.nodes.map((node) => node.finish).filter((finish) => finish !== null));
  for (const finish of finishes) {
    const icon = drawn("svg", { width: 18, height: 18, viewBox: "-9 -9 18 18", "aria-hidden": "true" });
    icon.append(mark(finish, null));
    byId("legend").append(element("li", {}, icon, data.finish_words[finish] ?? finish));
  }
  byId("legend").append(element("li", {}, "★ the chosen path"));

  // ---- time --------------------------------------------------------------------------------------------------
  const span = Math.max(0.001, data.wall_s, ...data.actions.map((note) => note.end_s ?? note.start_s));
  const lanes = new Map();
  for (const note of data.actions) {
    if (!lanes.has(note.type)) {
      const track = element("div", { class: "track" });
      byId("lanes").append(element("div", { class: "lane" }, element("span", {}, note.type), track));
      lanes.set(note.type, track);
    }
    const bar = element("span", { title: brief(`${note.position} ${note.type} ${note.words}`, 120) });
    if (note.error !== null) bar.classList.add("failed");
    bar.style.left = `${Math.min(99.5, (100 * note.start_s) / span)}%`;
    bar.style.width = `${(100 * ((note.end_s ?? span) - note.start_s)) / span}%`;
    lanes.get(note.type).append(bar);
  }
  const scale = element("div", { class: "axis" }, element("span", {}, "0 s"), element("span", {}, `${span.toFixed(span < 10 ? 2 : 0)} s`));
  byId("lanes").append(element("div", { class: "lane" }, element("span"), scale));

  function table(target, titles, rows) {
    const head = element("tr");
    titles.forEach((title, index) => {
      const isNumber = rows.length > 0 && typeof rows[0][index] === "number";
      head.append(element("th", { scope: "col", class: isNumber ? "number" : "words" }, title));
    });
    const body = element("tbody");
    for (const row of rows) {
      const line = element("tr");
      for (const cell of row) {
        line.append(typeof cell === "number" ? element("td", { class: "number" }, cell.toLocaleString("en")) : element("td", {}, cell));
      }
      body.append(line);
    }
    target.append(element("thead", {}, head), body);
  }
  table(byId("actions"), ["#", "action", "what", "from", "to", "samples", "tokens", "refused"], data.actions.map((note) => [
    note.position, note.type, brief(note.words, 200), `${note.start_s.toFixed(2)} s`,
    note.end_s === null ? "under way" : `${note.end_s.toFixed(2)} s`, note.num_samples, note.output_tokens, note.error ?? "",
  ]));
  table(byId("ledger"), ["what", "spent", ""], data.ledger);
  draw();
})();
