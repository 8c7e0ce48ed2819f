// Requests to the service, and its errors.
import { apiKey } from "./key.js";

const TIMEOUT_MS = 30_000;
const DIRECTIONS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** What the service, or the way to it, said instead of an answer; `status` is 0 if it could not be reached. */
export class ServiceError extends Error {
  constructor(message, { status = 0, code = "", param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}
export function headers(more = {}) {
  const key = apiKey();
  return key === "" ? more : { ...more, Authorization: `Bearer ${key}` };
}
/** JSON values; marks that turn the direction of text are made visible, so that nothing reads as what it is not. */
export function parsed(text) {
  const mayHaveMarks = text.search(DIRECTIONS) >= 0 || text.includes("\\u");
  return JSON.parse(text, mayHaveMarks ? (_, value) => visible(value) : undefined);
}
function visible(value) {
  if (typeof value === "string") return value.replace(DIRECTIONS, "\ufffd");
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  const hasMarks = Object.keys(value).some((key) => key.search(DIRECTIONS) >= 0);
  return hasMarks ? Object.fromEntries(Object.entries(value).map(([key, item]) => [visible(key), item])) : value;
}
/** The answer to a request as JSON values; `isExact` leaves texts as they are, for those that are sent again. */
export async function call(method, path, { body, signal, more = {}, isExact = false } = {}) {
  const options = { method, headers: headers(more), cache: "no-store", redirect: "error", signal: within(signal, TIMEOUT_MS) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    throw unreachable(error, signal);
  }
  if (!response.ok) throw failure(response, text);
  try {
    return isExact ? JSON.parse(text) : parsed(text);
  } catch {
    throw new ServiceError("The answer is not JSON. Is this address served by ttc serve?", { status: response.status });
  }
}
export function within(signal, timeoutMs) {
  const timeout = AbortSignal.timeout(timeoutMs);
  return signal ? AbortSignal.any([signal, timeout]) : timeout;
}
export function unreachable(error, signal) {
  if (signal?.aborted) return error;
  const why = error.name === "TimeoutError" ? "The service did not answer in time." : "The service cannot be reached.";
  return new ServiceError(`${why} Is it running, and are you connected?`);
}
export function failure(response, text) {
  const { status } = response;
  let error = {};
  try {
    error = parsed(text).error ?? {};
  } catch { /* a proxy's page; the status says enough */ }
  const wait = response.headers.get("Retry-After");
  const message = typeof error.message === "string" ? error.message : `The service answered with status ${status}.`;
  return new ServiceError(wait ? `${message} (try again in ${wait} s)` : message, { status, code: error.code, param: error.param });
}
export function jobPath(id) {
  return `/v1/jobs/${encodeURIComponent(id)}`;
}
/** A key under which a request that is sent twice counts once. */
export function newIdempotencyKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
