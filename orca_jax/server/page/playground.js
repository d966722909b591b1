// Asking the server as any client would: the public routes, streaming, with the sampling controls.

import { events, post, request } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { seconds } from "./format.js";
import { Answer, watchTokens } from "./tokens.js";

const TOP = 5; // alternatives shown for a token
const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed", "n"];

let conversation = []; // of a chat: { role, content }
let running = null; // the AbortController of the answer that is coming
let model = null;

const mode = () => document.querySelector('input[name="mode"]:checked').value;

let tellId = () => {};

/** `onId` is told the id of each answer that begins. */
export function startPlayground(onId) {
  tellId = onId;
  watchTokens(byId("answers"), byId("token"), byId("token-said"));
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  byId("stop-answer").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", clear);
  for (const radio of document.querySelectorAll('input[name="mode"]')) radio.addEventListener("change", changeMode);
}

function changeMode() {
  clear();
  const chat = mode() === "chat";
  tell(byId("prompt-label"), chat ? "Message" : "Prompt");
  tell(byId("send"), chat ? "Send" : "Generate");
}

function clear() {
  running?.abort();
  conversation = [];
  byId("answers").replaceChildren();
  byId("token").hidden = true;
  tell(byId("failure"), "");
  tell(byId("figures"), "");
}

/** What the form says. An empty field is left to the server. */
function settings() {
  const body = {};
  for (const name of NUMBERS) if (byId(name).value !== "") body[name] = Number(byId(name).value);
  const stop = byId("stop").value.split("\n").filter((line) => line !== "");
  if (stop.length) body.stop = stop;
  return body;
}

async function bodyOf(chat, prompt) {
  model ??= (await (await request("v1/models")).json()).data[0].id;
  const body = { model, stream: true, ...settings() };
  if (chat) {
    body.messages = [...conversation, { role: "user", content: prompt }];
    if (byId("logprobs").checked) Object.assign(body, { logprobs: true, top_logprobs: TOP });
  } else {
    body.prompt = prompt;
    if (byId("logprobs").checked) body.logprobs = TOP;
  }
  return body;
}

async function ask() {
  if (running) return;
  const chat = mode() === "chat";
  const prompt = byId("prompt").value;
  const controller = (running = new AbortController());
  busy(true);
  tell(byId("failure"), "");
  tell(byId("figures"), "");
  byId("token").hidden = true;
  const begun = performance.now();
  const answers = new Map();
  try {
    const body = await bodyOf(chat, prompt);
    const response = await post(chat ? "v1/chat/completions" : "v1/completions", body, controller.signal);
    open(chat, prompt);
    await read(response, chat, prompt, answers, begun);
  } catch (error) {
    if (error.name !== "AbortError") tell(byId("failure"), error.status ? error.message : `The answer broke off: ${error.message}`);
  }
  for (const answer of answers.values()) answer.end();
  if (running === controller) { // else it was cleared meanwhile
    keep(chat, prompt, answers);
    report(answers, begun, controller.signal.aborted);
  }
  running = null;
  busy(false);
}

function open(chat, prompt) {
  if (!chat) byId("answers").replaceChildren();
  else {
    byId("answers").append(make("div", { className: "answer asked", textContent: prompt }));
    byId("prompt").value = "";
  }
}

async function read(response, chat, prompt, answers, begun) {
  for await (const data of events(response)) {
    if (data === "[DONE]") continue; // to the stream's own end: breaking it off would look like a failure
    const chunk = JSON.parse(data);
    if (chunk.id) tellId(chunk.id);
    if (chunk.error) throw Object.assign(new Error(chunk.error.message), { status: 500 });
    for (const choice of chunk.choices ?? []) {
      if (!answers.has(choice.index)) {
        answers.set(choice.index, new Answer(byId("answers"), chat ? "" : prompt));
      }
      answers.get(choice.index).take(choice, performance.now() - begun);
    }
    report(answers, begun, false);
  }
}

function keep(chat, prompt, answers) {
  const first = answers.get(0);
  if (chat && first) conversation.push({ role: "user", content: prompt }, { role: "assistant", content: first.text });
}

function report(answers, begun, stopped) {
  const all = [...answers.values()];
  if (!all.length) return tell(byId("figures"), stopped ? "stopped" : "");
  const tokens = all.reduce((sum, answer) => sum + answer.tokens, 0);
  const first = Math.min(...all.map((answer) => answer.first ?? Infinity));
  const elapsed = performance.now() - begun;
  const rate = tokens > 1 && elapsed > first ? `${Math.round((tokens - 1) / ((elapsed - first) / 1000))} a second` : null;
  const ends = stopped ? "stopped" : [...new Set(all.map((answer) => answer.reason).filter(Boolean))].join(", ");
  const parts = [`${tokens} tokens`, Number.isFinite(first) ? `first after ${seconds(first / 1000)}` : null, rate, ends && `end: ${ends}`];
  return tell(byId("figures"), parts.filter(Boolean).join(" · "));
}

function busy(is) {
  byId("send").disabled = is;
  byId("stop-answer").disabled = !is;
  byId("figures").setAttribute("aria-live", is ? "off" : "polite"); // the end is worth saying, not every token
}
