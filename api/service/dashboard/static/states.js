// What stands in place of content: it loads, there is none, something went wrong; each says what can be done.
import { element } from "./page/basics.js";
import { askForKey } from "./key.js";

export function button(words, onPress, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, words);
  made.addEventListener("click", onPress);
  return made;
}
export function loading(words) {
  return element("p", { class: "state loading", role: "status" }, words);
}
export function empty(words, ...ways) {
  return element("div", { class: "state" }, element("p", {}, words), ...ways);
}
/** An error with a way out: a key to enter, or to try again. */
export function failed(error, onRetry) {
  const ways = [];
  if (error.status === 401 || error.status === 403) ways.push(button("Enter an API key", askForKey, { class: "primary" }));
  if (onRetry) ways.push(button("Try again", onRetry));
  return element("div", { class: "state failed", role: "alert" }, element("p", {}, error.message), element("p", { class: "buttons" }, ...ways));
}
/** Says something to those who do not see the page change, and shows it for a moment. */
export function say(words) {
  const said = document.getElementById("said");
  said.textContent = words;
  said.classList.add("shown-now");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => said.classList.remove("shown-now"), 5000);
}
