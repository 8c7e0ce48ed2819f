// The form for a new job.
import { call, newIdempotencyKey } from "./api.js";
import { draft } from "./draft.js";
import { counted, element } from "./page/basics.js";
import { fieldOf, read, shown } from "./params.js";
import { failed, loading } from "./states.js";

const ANSWERS = [
  ["auto", "whatever the text states"], ["boxed", "what stands in \\boxed{}"], ["exact", "compared letter by letter"],
  ["number", "a number"], ["choice", "a letter of a choice"], ["code", "a block of code"], ["json", "JSON"], ["text", "the whole text"],
];
const BUDGET = [
  ["max_output_tokens", "Output tokens", "whole number", "Tokens that may be sampled, those of judges and retries among them."],
  ["max_seconds", "Seconds", "number", "Time from the job's start; then the best answer so far is given."],
  ["max_usd", "US dollars", "number", "By the models' token prices."],
  ["target_confidence", "Target confidence", "number", "Stop as soon as the policy is this sure, above 0 and below 1. Not every policy can."],
  ["max_total_tokens", "Total tokens", "whole number", "Tokens read and sampled."],
  ["max_model_calls", "Model calls", "whole number", "Sequences that may be sampled or scored by a model."],
];

export async function showForm(main, { signal }) {
  main.replaceChildren(loading("Loading policies…"));
  let policies, verifiers;
  try {
    [policies, verifiers] = await Promise.all([call("GET", "/v1/policies", { signal }), verifiersOf(signal)]);
  } catch (error) {
    if (!signal.aborted) main.replaceChildren(failed(error, () => showForm(main, { signal })));
    return;
  }
  if (!signal.aborted) new Form(main, policies, verifiers);
}
/** A service that does not list them still takes their names. */
async function verifiersOf(signal) {
  try {
    return (await call("GET", "/v1/verifiers", { signal })).data;
  } catch (error) {
    if (error.status === 404) return [];
    throw error;
  }
}

class Form {
  constructor(main, policies, verifiers) {
    this.policies = policies.data;
    this.usual = policies.default ?? "";
    this.key = newIdempotencyKey();
    this.#makeFields(verifiers);
    const part = (title, ...children) => element("fieldset", { class: "card" }, element("legend", {}, title), ...children);
    this.form = element("form", { class: "new", novalidate: "", autocomplete: "off" },
      element("h1", {}, "New job"),
      element("section", { class: "card problem-card" }, this.problem.element, this.alert, element("p", { class: "buttons" }, this.send, element("span", { class: "hint" }, "Ctrl + Enter submits"))),
      part("How to spend it", this.policy.element, this.about, this.more),
      part("Budget", element("p", { class: "hint" }, "Empty: no cap of yours. The service may set lower ones."), element("div", { class: "grid" }, ...this.budget.map((field) => field.element))),
      part("Reading and checking answers", element("div", { class: "grid" }, this.verifier.element, this.answer.element, this.seed.element)));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.#submit(); });
    this.form.addEventListener("input", () => this.#remember());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit();
    });
    main.replaceChildren(this.form);
    this.#showPolicy();
  }
  #makeFields(verifiers) {
    this.problem = shown("f-problem", "Problem", element("textarea", { id: "f-problem", rows: "6", dir: "auto", maxlength: "1000000", placeholder: "What is 17 * 23 + 5?" }), "A question or task, as you would ask it.");
    this.problem.input.value = draft.problem;
    this.alert = element("p", { class: "problem", role: "alert" });
    this.send = element("button", { type: "submit", class: "primary" }, "Submit the job");
    const option = ({ name, problem }) => element("option", { value: name, ...(problem ? { disabled: "" } : {}) }, name);
    const select = element("select", { id: "f-policy" }, element("option", { value: "" }, this.usual ? `default (${this.usual})` : "default of the service"), ...this.policies.map(option));
    select.value = draft.policy;
    select.addEventListener("change", () => this.#showPolicy());
    this.policy = shown("f-policy", "Policy", select, "The algorithm that decides what to sample, score and keep.");
    this.about = element("p", { class: "about" });
    this.params = element("div", { class: "grid" });
    this.number = element("summary");
    this.more = element("details", { ...(window.innerWidth > 992 ? { open: "" } : {}) }, this.number, this.params);
    this.budget = BUDGET.map(([name, label, type, help]) => {
      const input = element("input", { id: `f-${name}`, type: "text", inputmode: type === "number" ? "decimal" : "numeric", placeholder: "no cap" });
      input.value = draft.budget[name] ?? "";
      return { name, type, ...shown(`f-${name}`, label, input, help) };
    });
    const names = verifiers.map(({ name }) => element("option", { value: name }, name));
    const choice = element("select", { id: "f-verifier" }, element("option", { value: "" }, "default of the policy"), ...names);
    choice.value = draft.verifier;
    this.verifier = shown("f-verifier", "Verifier", choice, "Who scores texts, for policies that ask.");
    const kinds = ANSWERS.map(([name, words]) => element("option", { value: name }, `${name}: ${words}`));
    const kind = element("select", { id: "f-answer" }, ...kinds);
    kind.value = draft.answer;
    this.answer = shown("f-answer", "Kind of answer", kind, "How the final answer is found in a text and compared.");
    const seed = element("input", { id: "f-seed", type: "text", inputmode: "numeric", placeholder: "0" });
    seed.value = draft.seed;
    this.seed = shown("f-seed", "Seed", seed, "All randomness of the job derives from it.");
  }
  #showPolicy() {
    const name = this.policy.input.value || this.usual;
    const policy = this.policies.find((one) => one.name === name);
    const facts = policy?.facts ?? {};
    this.about.replaceChildren();
    if (policy) {
      this.about.append(policy.summary, " ");
      const more = [facts.kind, facts.models && `models: ${facts.models}`, facts.source && facts.source !== "none" && facts.source].filter(Boolean);
      this.about.append(element("span", { class: "hint" }, more.join(" · ")));
    }
    const parameters = (policy?.parameters ?? []).filter((parameter) => parameter.name !== "verifier");
    this.fields = parameters.map((parameter) => fieldOf(parameter, { id: `f-param-${parameter.name}`, value: draft.params[parameter.name] ?? "" }));
    this.params.replaceChildren(...this.fields.map((field) => field.element));
    this.number.textContent = counted(this.fields.length, "parameter", "parameters");
    if (this.fields.length === 0) this.params.replaceChildren(element("p", { class: "hint" }, policy ? "This policy has no parameters." : "Choose a policy to set its parameters."));
    this.verifier.element.hidden = Boolean(policy) && (facts.verifier ?? "none") === "none";
    this.#confidence(facts);
    this.#remember();
  }
  #confidence(facts) {
    const field = this.budget.find(({ name }) => name === "target_confidence");
    const cannot = facts["stops at a target confidence"] === "no";
    field.input.disabled = cannot;
    field.input.placeholder = cannot ? "not with this policy" : "none";
  }
  #remember() {
    const filled = (fields) => Object.fromEntries(fields.map((field) => [field.name, field.input.value]).filter(([, value]) => value !== ""));
    Object.assign(draft, {
      problem: this.problem.input.value, policy: this.policy.input.value, params: filled(this.fields), budget: filled(this.budget),
      verifier: this.verifier.input.value, answer: this.answer.input.value, seed: this.seed.input.value,
    });
    this.key = newIdempotencyKey(); // another job from here on
  }
  #body() {
    const set = (pairs) => Object.fromEntries(pairs.filter(([, value]) => value !== undefined));
    const body = { problem: this.problem.input.value, answer: this.answer.input.value };
    if (this.policy.input.value) body.policy = this.policy.input.value;
    if (this.verifier.input.value && !this.verifier.element.hidden) body.verifier = this.verifier.input.value;
    body.params = set(this.fields.map((field) => [field.name, field.value()]));
    const budget = set(this.budget.filter(({ input }) => !input.disabled).map(({ name, type, input }) => [name, read(input.value.trim(), type)]));
    if (Object.keys(budget).length > 0) body.budget = budget;
    const seed = read(this.seed.input.value.trim(), "whole number");
    return seed === undefined ? body : { ...body, seed };
  }
  async #submit() {
    this.alert.textContent = "";
    if (this.problem.input.value.trim() === "") return this.#complain(this.problem, "Write a problem first.");
    this.send.disabled = true;
    this.send.textContent = "Submitting…";
    try {
      const job = await call("POST", "/v1/jobs", { body: this.#body(), more: { "Idempotency-Key": this.key } });
      location.hash = `#/jobs/${encodeURIComponent(job.id)}`;
    } catch (error) {
      const field = this.#fieldOf(error.param);
      if (field) this.#complain(field, error.message);
      else this.alert.textContent = error.message;
    } finally {
      this.send.disabled = false;
      this.send.textContent = "Submit the job";
    }
  }
  /** The field that an error is about: its last part names it (`budget.max_usd`, `params.n`). */
  #fieldOf(param) {
    const name = String(param ?? "").split(".").pop();
    const own = { problem: this.problem, policy: this.policy, verifier: this.verifier, answer: this.answer, seed: this.seed };
    return own[name] ?? [...this.fields, ...this.budget].find((field) => field.name === name);
  }
  #complain(field, words) {
    field.complain(words);
    field.input.focus();
  }
}
