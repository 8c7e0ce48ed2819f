// Starts the dashboard: which view the address names, and what all views share.
import { showCompare } from "./compare.js";
import { showForm } from "./form.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";
import { setUpKey } from "./key.js";
import { byId } from "./page/basics.js";
import { setUpShortcuts } from "./shortcuts.js";
import { hasUsage, showUsage } from "./usage.js";
import { keepTime } from "./words.js";

const VIEWS = { new: ["New job", showForm], jobs: ["Jobs", showJobs], job: ["Job", showJob], compare: ["Compare", showCompare], usage: ["Usage", showUsage] };
let leaving = new AbortController();

/** The view that the address names, and the ids in it: `#/`, `#/jobs`, `#/jobs/ID`, `#/compare/ID/ID`, `#/usage`. */
function wanted() {
  const [name, ...parts] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const ids = parts.map((part) => (part === "-" ? "" : part));
  if (name === "jobs") return ids[0] ? ["job", ids] : ["jobs", ids];
  return name in VIEWS ? [name, ids] : ["new", ids];
}
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
function show({ isFirst = false } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const [name, parts] = wanted();
  const [title, view] = VIEWS[name];
  document.title = `${title} · ttc`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === (name === "job" ? "jobs" : name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const main = byId("main");
  main.className = `view-${name}`;
  view(main, { signal: leaving.signal, parts });
  if (isFirst) return;
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
}
async function offerUsage() {
  byId("usage-link").hidden = !(await hasUsage());
}
setUpKey(() => { show(); offerUsage(); });
setUpShortcuts();
keepTime();
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", () => show());
show({ isFirst: true });
offerUsage();
