// Time: a slider over the actions of the policy, a button that plays them, and the numbers of the moment.
import { brief, counted, saved, seconds, whole } from "./basics.js";

const PLAY_S = 15; // the longest that playing takes
const MOST_STEPS_PER_S = 10;
const SLOWEST_STEPS_PER_S = 2.5;

export class TimeBar {
  /** `onGo()` is called after the moment has changed. */
  constructor(view, { play, back, slider, forth, when, now, onGo }) {
    Object.assign(this, { view, trace: view.trace, play, slider, when, now, onGo });
    this.player = null;
    play.addEventListener("click", () => (this.player === null ? this.#start() : this.pause()));
    slider.addEventListener("input", () => this.go(Number(slider.value)));
    back.addEventListener("click", () => this.go(this.trace.moment - 1));
    forth.addEventListener("click", () => this.go(this.trace.moment + 1));
  }
  go(to, { isPlaying = false } = {}) {
    const { trace, view } = this;
    if (!isPlaying) this.pause();
    const from = trace.moment;
    trace.moment = Math.max(0, Math.min(trace.last, to));
    this.tell();
    if (trace.moment > from && !trace.isAtEnd) view.follow();
    view.paint();
    this.onGo();
  }
  /** Says which moment it is. */
  tell() {
    const words = this.#words();
    this.slider.max = this.trace.last;
    this.slider.value = this.trace.moment;
    this.slider.setAttribute("aria-valuetext", words);
    this.when.textContent = words;
    this.now.textContent = this.#numbers().join(" · ");
  }
  pause() {
    clearInterval(this.player);
    this.player = null;
    this.play.textContent = "▶ play";
  }
  #start() {
    const { last } = this.trace;
    if (this.trace.isAtEnd) this.go(0);
    const rate = Math.min(MOST_STEPS_PER_S, Math.max(SLOWEST_STEPS_PER_S, last / PLAY_S));
    const step = Math.max(1, Math.round(last / PLAY_S / rate));
    this.play.textContent = "❚❚ pause";
    this.player = setInterval(() => {
      this.go(this.trace.moment + step, { isPlaying: true });
      if (this.trace.isAtEnd) this.pause();
    }, 1000 / rate);
  }
  #words() {
    const { actions, isLive, moment } = this.trace;
    if (moment === 0) return "before the first action";
    const note = actions[moment - 1];
    if (!note) return isLive ? "now" : "the end of the job";
    const when = note.end_s === null ? "under way" : seconds(note.end_s);
    return `action ${note.position} of ${actions.length - 1} · ${when} · ${note.type} ${brief(note.words, 90)}${note.error ? " (refused)" : ""}`;
  }
  #numbers() {
    const { frame, isSearch } = this.trace;
    const words = [];
    if (isSearch) {
      words.push(`level ${frame.depth}`, `${whole(frame.num_open)} open`, `${whole(frame.num_given_up)} given up`, `${whole(frame.num_finished)} finished`);
      if (frame.unshared_tokens > 0) {
        words.push(`KV of the open ones: ${whole(frame.held_tokens)} tokens, ${whole(frame.unshared_tokens)} if not shared (${saved(frame.held_tokens, frame.unshared_tokens)} saved)`);
      }
    } else words.push(counted(frame.num_nodes, "sample", "samples"), `${whole(frame.num_finished)} finished`);
    if (frame.best !== null) words.push(`best so far: ${brief(frame.best, 40)}`);
    return words;
  }
}
