// Talking to the server: the key, errors with their message, and server-sent events read from a fetch, because an
// EventSource can neither post nor send a key.

const SLOT = "orca_jax.key";

export const getKey = () => sessionStorage.getItem(SLOT) ?? "";
export const setKey = (key) => (key ? sessionStorage.setItem(SLOT, key) : sessionStorage.removeItem(SLOT));

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Fetch with the key; throws ServerError with what the server says. */
export async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (getKey()) headers.set("Authorization", `Bearer ${getKey()}`);
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (!response.ok) throw new ServerError(response.status, await messageOf(response));
  return response;
}

export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

async function messageOf(response) {
  const text = await response.text();
  const fallback = `The server answered ${response.status} ${response.statusText}`.trim();
  try {
    return JSON.parse(text)?.error?.message || fallback;
  } catch {
    return fallback; // not JSON: a proxy's page, say
  }
}

/** The data of each server-sent event, as text, until the stream ends. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += value;
      const parts = pending.split(/\r?\n\r?\n/);
      pending = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which whoever reads has been told
  }
}
