// Elements, and quantities in words. Texts come from models and callers: they only ever become text nodes.
const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
export function drawn(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}
export function brief(text, width) {
  const line = text.slice(0, 8 * width).replace(/\s+/g, " ").trim();
  const letters = Array.from(line);
  return letters.length <= width ? line : letters.slice(0, width - 1).join("") + "…";
}
export function addFact(list, name, value) {
  list.append(element("dt", {}, name), element("dd", { dir: "auto" }, value));
}
export function whole(number) {
  return number.toLocaleString("en");
}
export function counted(number, one, many) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}
export function seconds(value) {
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} s`;
}
export function score(value) {
  return value.toFixed(2);
}
export function saved(shared, unshared) {
  return unshared > 0 ? `${Math.round(100 * (1 - shared / unshared))} %` : "–";
}
