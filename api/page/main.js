// Tools above the tree, its legend, and the first picture.
const choice = byId("colour");
choice.append(element("option", { value: "answer" }, "answer"));
for (const name of verifiers) choice.append(element("option", { value: name }, `score by ${name}`));
choice.value = colouring;
choice.addEventListener("change", () => { colouring = choice.value; showLegend(); paint(); });

function resize(to) {
  chosenSize = SIZES[Math.max(0, Math.min(SIZES.length - 1, to))];
  byId("smaller").disabled = chosenSize === SIZES[0];
  byId("larger").disabled = chosenSize === SIZES[SIZES.length - 1];
  layOut();
  reveal(current.up ? current : nodes.get(data.path[data.path.length - 1]) ?? current);
}
byId("smaller").addEventListener("click", () => resize(SIZES.indexOf(chosenSize) - 1));
byId("larger").addEventListener("click", () => resize(SIZES.indexOf(chosenSize) + 1));
const folder = byId("fold");
folder.addEventListener("change", () => {
  if (folder.checked) foldGivenUp();
  else folded.clear();
  layOut();
});

function legendItem(words, state, fill) {
  const icon = drawn("svg", { width: 20, height: 18, viewBox: "-10 -9 20 18", "aria-hidden": "true" });
  icon.append(mark(state, fill, 6));
  return element("li", {}, icon, words);
}
function showLegend() {
  const byScore = colouring !== "answer";
  const plain = { share: byScore ? 0.6 : 1, colour: byScore ? colourOfScore(0.6) : "var(--none)" };
  const states = new Set(data.nodes.map((node) => stateAtEnd(nodes.get(node.id))));
  const items = [];
  if (states.has("continued") || states.has("open")) items.push(legendItem("a step", "continued", plain));
  if (states.has("finished")) items.push(legendItem("finished", "finished", plain));
  if (states.has("cut")) items.push(legendItem("cut off", "cut", plain));
  if (states.has("given up")) items.push(legendItem("given up (×, dashed): choose it to read why", "given up", { ...plain, colour: "var(--gone)" }));
  if (byScore) {
    const ramp = element("span", { class: "ramp", "aria-hidden": "true" });
    for (let index = 0; index < NUM_SCORE_COLOURS; index++) {
      const part = element("span");
      part.style.background = `var(--s${index})`;
      ramp.append(part);
    }
    items.push(element("li", {}, "score 0 ", ramp, " 1; a mark is filled up to its score"));
  }
  items.push(element("li", { class: "chosen" }, "chosen path, ★ its end"));
  byId("legend").replaceChildren(...items);
}
function stateAtEnd(node) {
  const now = moment;
  moment = LAST;
  const state = stateOf(node);
  moment = now;
  return state;
}

byId("fold-label").hidden = !data.nodes.some((node) => node.given_up !== null && nodes.get(node.id).children.length > 0);
showLegend();
resize(window.innerWidth < 736 && depth > 3 ? 0 : 2);
if (data.is_search && laid.height > 1.4 * box.clientHeight) resize(0);
box.scrollTop = box.scrollLeft = 0;
go(LAST);
