// What each API key has spent; only where the service has keys.
import { call } from "./api.js";
import { element } from "./page/basics.js";
import { failed, loading } from "./states.js";

/** Whether the service says what keys have spent. */
export async function hasUsage() {
  try {
    await call("GET", "/v1/usage");
    return true;
  } catch (error) {
    return error.status !== 404 && error.status !== 0;
  }
}
export async function showUsage(main, { signal }) {
  main.replaceChildren(element("h1", {}, "Usage by key"), loading("Loading…"));
  try {
    await call("GET", "/v1/usage", { signal });
  } catch (error) {
    if (!signal.aborted) main.replaceChildren(failed(error, () => showUsage(main, { signal })));
  }
}
