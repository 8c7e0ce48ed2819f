// The job that is being written, while this page is open: leaving the form loses nothing, and a job can be asked again.
export const draft = { problem: "", policy: "", params: {}, budget: {}, verifier: "", answer: "auto", seed: "" };

/** Takes over what another job was asked. */
export function draftOf(job) {
  const params = Object.fromEntries(Object.entries(job.params).map(([name, value]) => [name, Array.isArray(value) ? value.join(",") : String(value ?? "")]));
  const budget = Object.fromEntries(Object.entries(job.budget).map(([name, value]) => [name, String(value)]));
  Object.assign(draft, { problem: job.problem, policy: job.policy, params, budget, verifier: "", answer: "auto", seed: "" });
}
