// The API key of this tab: asked for in a dialog, kept in the session storage only, and sent to this server only.
import { byId } from "./page/basics.js";

const NAME = "ttc-api-key";

export function apiKey() {
  return sessionStorage.getItem(NAME) ?? "";
}
export function askForKey() {
  const dialog = byId("key-dialog");
  byId("key-input").value = apiKey();
  if (!dialog.open) dialog.showModal();
  byId("key-input").select();
}
/** `onChange()` is called when another key is to be used. */
export function setUpKey(onChange) {
  const use = (key) => {
    if (key === "") sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, key);
    byId("key-dialog").close();
    tell();
    onChange();
  };
  byId("key-button").addEventListener("click", askForKey);
  byId("key-forget").addEventListener("click", () => use(""));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    use(byId("key-input").value.trim());
  });
  tell();
}
function tell() {
  const hasKey = apiKey() !== "";
  byId("key-button").textContent = hasKey ? "API key ✓" : "API key";
  byId("key-button").setAttribute("aria-label", hasKey ? "API key, one is in use" : "API key, none in use");
}
