// A job that waits for a person: its question, and a form for the reply.
import { call, jobPath } from "./api.js";
import { element } from "./page/basics.js";
import { button, say } from "./states.js";

export class WaitingCard {
  constructor(id, jobId, onSent) {
    Object.assign(this, { jobId, onSent });
    this.question = element("p", { class: "text question", dir: "auto" });
    this.reply = element("textarea", { rows: "3", dir: "auto", id: `${id}-reply`, maxlength: "1000000" });
    this.problem = element("p", { class: "problem", role: "alert" });
    this.send = button("Send the reply", () => this.#send(), { class: "primary" });
    this.section = element("section", { class: "card wide waiting-card", "aria-labelledby": id, hidden: "" },
      element("h2", { id }, "It waits for you"), this.question,
      element("label", { class: "field", for: `${id}-reply` }, element("span", {}, "Your reply"), this.reply), this.problem, element("p", { class: "buttons" }, this.send));
    this.reply.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#send();
    });
  }
  show(job) {
    this.section.hidden = job.state !== "waiting";
    const question = job.question ?? job.result?.question ?? "The policy gave no question.";
    if (this.question.textContent !== question) this.question.textContent = question;
  }
  async #send() {
    const text = this.reply.value;
    this.problem.textContent = text.trim() === "" ? "The reply is empty; write what the job should know." : "";
    if (text.trim() === "") return this.reply.focus();
    this.send.disabled = true;
    try {
      await call("POST", `${jobPath(this.jobId)}/input`, { body: { text } });
      this.reply.value = "";
      this.section.hidden = true;
      say("Sent. The job goes on.");
      this.onSent();
    } catch (error) {
      this.problem.textContent = error.message;
    } finally {
      this.send.disabled = false;
    }
  }
}
