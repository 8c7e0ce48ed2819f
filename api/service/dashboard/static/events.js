// The events of a job as they happen, over connections that may break: each durable event comes once and in order.
import { call, failure, headers, jobPath, parsed, ServiceError, unreachable } from "./api.js";
import { isOver } from "./words.js";

const SILENCE_MS = 60_000; // the service sends heartbeats more often
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/**
 * Yields {kind, data, seq} until the job is over; `seq` is null for what is not durable. `onConnection(isUp, why)` is
 * told when the stream breaks and when it is there again.
 */
export async function* eventsOf(jobId, { signal, onConnection = () => {} }) {
  let last = -1;
  let pause = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    let problem = null;
    try {
      for await (const event of connection(jobId, last, signal, () => onConnection(true))) {
        pause = FIRST_PAUSE_MS;
        if (event.seq !== null) {
          if (event.seq <= last) continue;
          if (event.seq > last + 1) throw new ServiceError("Events are missing; asking for them again.");
          last = event.seq;
        }
        yield event;
        if (event.kind === "final") return;
      }
      if (isOver((await call("GET", jobPath(jobId), { signal })).state)) return; // a job that never ran has no last event
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 408 && error.status !== 429) throw error;
      problem = error;
    }
    onConnection(false, problem?.message ?? "The stream of events ended early.");
    await new Promise((over) => setTimeout(over, pause * (0.75 + Math.random() / 2)));
    pause = Math.min(LONGEST_PAUSE_MS, 2 * pause);
  }
}
async function* connection(jobId, last, signal, onOpen) {
  const silence = new AbortController();
  const wanted = last < 0 ? {} : { "Last-Event-ID": String(last) };
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await fetch(`${jobPath(jobId)}/events`, {
      headers: headers({ Accept: "text/event-stream", ...wanted }),
      cache: "no-store", redirect: "error", signal: AbortSignal.any([signal, silence.signal]),
    });
    if (!response.ok) throw failure(response, await response.text());
    onOpen();
    const read = messageReader();
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      for (const message of read(decoder.decode(value, { stream: true }))) {
        const data = parsed(message.data);
        if (message.kind === "error") throw new ServiceError(data.error?.message ?? "The service reports an error.", { status: 500 });
        yield { kind: message.kind, data, seq: message.id === "" ? null : Number(message.id) };
      }
    }
  } catch (error) {
    throw error instanceof ServiceError ? error : unreachable(error, signal);
  } finally {
    clearTimeout(timer);
    silence.abort(); // also closes the connection when the reader of this has left
  }
}
/** Takes the text of a stream piece by piece and gives the messages that each piece completes. */
export function messageReader() {
  let rest = "";
  let fields = { kind: "", id: "", lines: [] };
  return (piece) => {
    const messages = [];
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (fields.lines.length > 0) messages.push({ kind: fields.kind || "message", id: fields.id, data: fields.lines.join("\n") });
        fields = { kind: "", id: "", lines: [] };
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
      if (name === "event") fields.kind = value;
      else if (name === "id") fields.id = value;
      else if (name === "data") fields.lines.push(value);
    }
    return messages;
  };
}
