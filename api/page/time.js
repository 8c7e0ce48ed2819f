// Time: a slider over the actions of the policy, a button that plays them, and the numbers of the moment.
const PLAY_S = 15; // the longest that playing takes
const MOST_STEPS_PER_S = 10;
const SLOWEST_STEPS_PER_S = 2.5;
const slider = byId("moment");
const play = byId("play");
let player = null;

function momentWords() {
  if (moment === 0) return "before the first action";
  const note = data.actions[moment - 1];
  if (!note) return "the end of the job";
  const when = note.end_s === null ? "under way" : seconds(note.end_s);
  return `action ${note.position} of ${data.actions.length - 1} · ${when} · ${note.type} ${brief(note.words, 90)}${note.error ? " (refused)" : ""}`;
}
function numbersNow() {
  const frame = frameNow();
  const words = [];
  if (data.is_search) {
    words.push(`level ${frame.depth}`, `${whole(frame.num_open)} open`, `${whole(frame.num_given_up)} given up`, `${whole(frame.num_finished)} finished`);
    if (frame.unshared_tokens > 0) {
      words.push(`KV of the open ones: ${whole(frame.held_tokens)} tokens, ${whole(frame.unshared_tokens)} if not shared (${saved(frame.held_tokens, frame.unshared_tokens)} saved)`);
    }
  } else words.push(counted(frame.num_nodes, "sample", "samples"), `${whole(frame.num_finished)} finished`);
  if (frame.best !== null) words.push(`best so far: ${brief(frame.best, 40)}`);
  return words;
}
function go(to, { isPlaying = false } = {}) {
  if (!isPlaying) pause();
  const from = moment;
  moment = Math.max(0, Math.min(LAST, to));
  slider.value = moment;
  slider.setAttribute("aria-valuetext", momentWords());
  byId("when").textContent = momentWords();
  byId("now").textContent = numbersNow().join(" · ");
  const cursor = byId("cursor");
  if (cursor) cursor.style.left = `${cursorPlace()}%`;
  if (moment > from && moment < LAST) follow();
  paint();
  if (opened && !byId("detail").hidden) open(opened);
}
/** Scrolls to what the action has added, if nothing of it can be seen. */
function follow() {
  const added = laid.shown.filter(isNew);
  if (added.length === 0) return;
  const seen = visibleArea();
  const isSeen = (node) => node.x > seen.left && node.x < seen.right - 60 && node.y > seen.top && node.y < seen.bottom - 30;
  if (!added.some(isSeen)) reveal(added.find((node) => path.has(node.id)) ?? added[0]);
}
function pause() {
  clearInterval(player);
  player = null;
  play.textContent = "▶ play";
}
play.addEventListener("click", () => {
  if (player !== null) return pause();
  if (moment === LAST) go(0);
  const rate = Math.min(MOST_STEPS_PER_S, Math.max(SLOWEST_STEPS_PER_S, LAST / PLAY_S));
  const step = Math.max(1, Math.round(LAST / PLAY_S / rate));
  play.textContent = "❚❚ pause";
  player = setInterval(() => {
    go(moment + step, { isPlaying: true });
    if (moment === LAST) pause();
  }, 1000 / rate);
});
slider.max = LAST;
slider.addEventListener("input", () => go(Number(slider.value)));
byId("back").addEventListener("click", () => go(moment - 1));
byId("forth").addEventListener("click", () => go(moment + 1));
svg.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -LAST, End: LAST }[event.key];
  if (!event.shiftKey || step === undefined) return;
  event.preventDefault();
  go(moment + step);
});
