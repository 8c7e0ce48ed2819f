// Form fields from the descriptions of parameters: their type, range and default in words become inputs, their meaning
// the help beside them. What is left empty is not sent, so that the service's default holds.
import { element } from "./page/basics.js";

/** One field: `element`, and `value()`, which is undefined if it is empty. */
export function fieldOf({ name, type, default: usual, range = "", meaning = "" }, { id, value = "" }) {
  const choices = choicesOf(type);
  const input = choices ? select(id, choices, usual) : textInput(id, type, usual);
  input.value = value;
  const help = [meaning && `${meaning}.`, range && `Range: ${range}.`].filter(Boolean).join(" ");
  return { name, ...shown(id, name, input, help), value: () => read(input.value.trim(), type) };
}
/** A labelled input with its help and a place for what is wrong with it. */
export function shown(id, label, input, help) {
  const problem = element("span", { class: "problem", id: `${id}-problem` });
  input.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
  const box = element("div", { class: "field" }, element("label", { for: id }, label), input, element("span", { class: "help", id: `${id}-help` }, help), problem);
  const complain = (words) => {
    problem.textContent = words;
    if (words) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  input.addEventListener("input", () => complain(""));
  return { element: box, input, complain };
}
function choicesOf(type) {
  if (type === "true or false") return ["true", "false"];
  if (!type.startsWith("one of ")) return null;
  return type.slice("one of ".length).split(", ").map(unquoted);
}
function select(id, choices, usual) {
  const options = choices.map((choice) => element("option", { value: choice }, choice));
  return element("select", { id }, element("option", { value: "" }, `default (${unquoted(usual)})`), ...options);
}
function textInput(id, type, usual) {
  const isWhole = type.startsWith("whole number"), isNumber = isWhole || type.startsWith("number");
  const input = element("input", { id, type: "text", placeholder: unquoted(usual), autocomplete: "off", spellcheck: "false" });
  if (isNumber) input.setAttribute("inputmode", isWhole ? "numeric" : "decimal");
  input.title = `default: ${usual}`;
  return input;
}
function unquoted(text) {
  return /^'.*'$/s.test(text) ? text.slice(1, -1) : text;
}
/** A text as the JSON value that a parameter of this type wants; what is no number is left to the service to refuse. */
export function read(text, type) {
  if (text === "") return undefined;
  if (text === "null" && type.endsWith("null")) return null;
  if (type === "true or false") return text === "true";
  if (type.startsWith("whole number") || type.startsWith("number")) {
    const number = Number(text.replaceAll(",", ""));
    return Number.isFinite(number) ? number : text;
  }
  return type.startsWith("list of") ? text.split(",").map((part) => part.trim()).filter(Boolean) : text;
}
