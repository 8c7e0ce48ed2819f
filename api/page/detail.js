// One node in full: facts, and its text as plain text.
function open(node, { isByKey = false } = {}) {
  opened = node;
  byId("d-title").textContent = node.parent === null ? (node.id === "0" ? "The problem" : "Another conversation") : `Node ${node.id}`;
  const facts = byId("d-facts");
  facts.replaceChildren();
  if (node.answer !== null) addFact(facts, "answer", node.answer);
  if (node.parent !== null) {
    addFact(facts, "state", fateNow(node));
    for (const name of verifiers) addScores(facts, node, name);
    const twin = node.up.children.find((sibling) => sibling.text === node.text);
    if (twin !== node) addFact(facts, "the same as", `node ${twin.id}`);
    if (node.model) addFact(facts, "model", node.model);
    addFact(facts, "level", `${node.depth}, written by action ${node.id.split(".")[0]}`);
    addFact(facts, "tokens", `${whole(node.output_tokens)}, ${whole(pathTokens(node))} from the beginning`);
  }
  if (node.finish !== null) {
    const detail = node.finish_detail ? ` (${JSON.stringify(node.finish_detail)})` : "";
    addFact(facts, "ended", (data.finish_words[node.finish] ?? node.finish) + detail);
  }
  if (node.logprob !== null) addFact(facts, "log probability", node.logprob.toFixed(3));
  byId("d-fold").hidden = node.children.length === 0 || node.parent === null;
  byId("d-fold").textContent = folded.has(node) ? "unfold" : "fold";
  showText();
  const aside = byId("detail");
  aside.hidden = false;
  aside.scrollTop = 0;
  if (isByKey) aside.focus();
}
function fateNow(node) {
  const when = isGivenUp(node) ? ` (action ${node.given_up.action})` : "";
  return fateOf(node) + when + (path.has(node.id) ? ", on the chosen path" : "");
}
/** The scores of the steps on the way, which is what a search compares. */
function addScores(facts, node, name) {
  const way = [];
  for (let step = node; step; step = step.up) way.unshift(scoreOf(step, name));
  const known = way.filter((value) => value !== undefined);
  if (scoreOf(node, name) !== undefined) addFact(facts, brief(name, 24), scoreOf(node, name).toFixed(4));
  if (known.length > 1) addFact(facts, "on the way", known.map(score).join(", "));
}
function pathTokens(node) {
  let sum = 0;
  for (let step = node; step; step = step.up) sum += step.output_tokens;
  return sum;
}
function showText() {
  const text = byId("d-text");
  text.replaceChildren();
  const chain = [];
  for (let node = opened; node; node = node.up) chain.unshift(node);
  for (const node of byId("d-whole").checked ? chain : [opened]) {
    for (const [role, content] of node.messages) text.append(element("span", { class: "turn" }, role), content);
    if (node.parent !== null) {
      if (chain[1] === node && byId("d-whole").checked) text.append(element("span", { class: "turn" }, "assistant"));
      if (node.forced) text.append(element("span", { class: "forced", title: "put there, not generated" }, node.forced));
      const isOpened = node === opened && byId("d-whole").checked;
      const own = node.text.slice(node.forced.length);
      text.append(isOpened ? element("mark", {}, own) : own);
    }
  }
}
function close() {
  byId("detail").hidden = true;
  const node = opened;
  opened = null;
  paint();
  if (node && groups.has(node)) focusOn(node);
}
byId("d-close").addEventListener("click", close);
byId("d-fold").addEventListener("click", () => { toggle(opened); open(opened); });
byId("d-whole").addEventListener("change", showText);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("detail").hidden) close();
});
