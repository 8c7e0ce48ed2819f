// What each API key has spent, by day and in total; only where the service says so.
import { call } from "./api.js";
import { element, whole } from "./page/basics.js";
import { empty, failed, loading } from "./states.js";
import { dollars } from "./words.js";

const DAYS = 14;
const TOTAL = "total";

/** Whether the service says what keys have spent; one that wants a key first does, too. */
export async function hasUsage() {
  try {
    await call("GET", "/v1/usage?days=1");
    return true;
  } catch (error) {
    return error.status === 401 || error.status === 403 || error.status === 429;
  }
}
export async function showUsage(main, { signal }) {
  main.replaceChildren(element("h1", {}, "Usage by key"), loading("Loading usage…"));
  let rows;
  try {
    rows = (await call("GET", `/v1/usage?days=${DAYS}`, { signal })).data;
  } catch (error) {
    if (!signal.aborted) main.replaceChildren(element("h1", {}, "Usage by key"), failed(error, () => showUsage(main, { signal })));
    return;
  }
  const keys = new Map();
  for (const row of rows) keys.set(row.key_id, [...(keys.get(row.key_id) ?? []), row]);
  const cards = [...keys.values()].map(card);
  if (cards.length === 0) cards.push(empty("There is no key yet. Make one with: ttc keys create"));
  main.replaceChildren(element("h1", {}, "Usage by key"), element("p", { class: "hint" }, "Days are UTC days. What is set aside belongs to jobs that have not ended."), ...cards);
}
function card(rows) {
  const { key_id: id, name } = rows[0];
  const title = id === "" ? "Without a key" : name || "Key without a name";
  const days = rows.filter((row) => row.period !== TOTAL);
  const most = days.reduce((high, row) => Math.max(high, row.spent.total_tokens), 1);
  const isUsed = (row, index) => row.period === TOTAL || index === 0 || row.spent.total_tokens > 0 || row.spent.model_calls > 0;
  const body = element("tbody", {}, ...rows.filter(isUsed).map((row) => line(row, most)));
  const titles = [["Period", ""], ["", "days"], ["Total tokens", "number"], ["Output tokens", "number"], ["Model calls", "number"], ["US dollars", "number"], ["Set aside", "number"]];
  const head = element("tr", {}, ...titles.map(([words, kind]) => element("th", { scope: "col", class: kind }, words)));
  return element("section", { class: "card usage", "aria-label": title },
    element("h2", {}, title), ...(id === "" ? [] : [element("p", { class: "hint" }, element("code", {}, id))]),
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), body)));
}
function line({ period, spent, set_aside: aside }, most) {
  const fill = element("span");
  fill.style.width = `${(100 * spent.total_tokens) / most}%`;
  const bar = period === TOTAL ? [] : [element("span", { class: "bar", "aria-hidden": "true" }, fill)];
  const amounts = [whole(spent.total_tokens), whole(spent.output_tokens), whole(spent.model_calls), dollars(spent.usd), asideWords(aside)];
  return element("tr", period === TOTAL ? { class: "total" } : {}, element("th", { scope: "row" }, period), element("td", { class: "days" }, ...bar),
    ...amounts.map((words) => element("td", { class: "number" }, words)));
}
function asideWords(aside) {
  const parts = [];
  if (aside.total_tokens || aside.output_tokens) parts.push(`${whole(Math.max(aside.total_tokens, aside.output_tokens))} tokens`);
  if (aside.usd) parts.push(dollars(aside.usd));
  return parts.join(", ") || "–";
}
