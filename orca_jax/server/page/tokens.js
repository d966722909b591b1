// An answer, token by token: how likely each was, and what else was likely there.

import { make, tell } from "./dom.js";
import { share } from "./format.js";

const CLASSES = [[0.9, ""], [0.5, "likely"], [0.1, "open"], [0, "unlikely"]];
const known = new WeakMap(); // a token's element -> [{ text, logprob, top: [[text, logprob]] }]

/** One entry a token, from the format of either route; nothing where no log-probabilities came. */
function entriesOf(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    return logprobs.content.map((entry) => ({
      text: entry.token, logprob: entry.logprob, top: (entry.top_logprobs ?? []).map((other) => [other.token, other.logprob]),
    }));
  }
  return (logprobs.tokens ?? []).map((text, i) => ({
    text, logprob: logprobs.token_logprobs[i], top: Object.entries(logprobs.top_logprobs?.[i] ?? {}),
  }));
}

export class Answer {
  constructor(parent, prompt) {
    this.element = make("div", { className: "answer growing" });
    if (prompt) this.element.append(make("span", { className: "given", textContent: prompt }));
    this.parent = parent;
    parent.append(this.element);
    this.text = "";
    this.tokens = 0;
    this.first = null; // milliseconds
    this.reason = null;
  }

  /** A chunk's choice, `after` milliseconds since the request. */
  take(choice, after) {
    const text = choice.text ?? choice.delta?.content ?? "";
    const entries = entriesOf(choice.logprobs);
    if (choice.finish_reason) this.reason = choice.finish_reason;
    if (!text && !entries.length) return;
    const atEnd = this.parent.scrollHeight - this.parent.scrollTop - this.parent.clientHeight < 40;
    this.first ??= after;
    this.tokens += entries.length || 1;
    this.text += text;
    if (entries.map((entry) => entry.text).join("") === text) for (const entry of entries) this.show(entry.text, [entry]);
    else this.show(text, entries); // text that was held back, or bytes of one character: they belong together
    if (atEnd) this.parent.scrollTop = this.parent.scrollHeight;
  }

  show(text, entries) {
    if (!text) return;
    if (!entries.length) return this.element.append(text);
    const least = Math.exp(Math.min(...entries.map((entry) => entry.logprob)));
    const tint = CLASSES.find(([from]) => least >= from)[1];
    const element = make("span", { className: `tok ${tint}`.trim(), textContent: text });
    known.set(element, entries);
    this.element.append(element);
  }

  end() { this.element.classList.remove("growing"); }
}

/** Show a token's numbers when it is pointed at, tapped or reached with the arrow keys. */
export function watchTokens(answers, panel, said) {
  let picked = null;
  const pick = (element, spoken) => {
    picked?.classList.remove("picked");
    picked = element;
    panel.hidden = !element;
    if (!element) return;
    element.classList.add("picked");
    const entries = known.get(element);
    panel.replaceChildren(...entries.map(table));
    if (spoken) tell(said, entries.map(sentence).join("; "));
  };
  const under = (event) => event.target.closest(".tok");
  answers.addEventListener("pointerover", (event) => { if (under(event)) pick(under(event), false); });
  answers.addEventListener("click", (event) => { if (under(event)) pick(under(event), false); });
  answers.addEventListener("keydown", (event) => {
    const all = [...answers.querySelectorAll(".tok")];
    const place = all.indexOf(picked);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") pick(null, false);
    if (next === undefined || !all.length) return;
    event.preventDefault();
    const element = all[Math.max(0, Math.min(all.length - 1, next))];
    element.scrollIntoView({ block: "nearest" });
    pick(element, true);
  });
}

const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(nothing)";

function alternatives(entry) {
  const others = entry.top.filter(([text]) => text !== entry.text);
  return [[entry.text, entry.logprob], ...others].sort((a, b) => b[1] - a[1]);
}

function table(entry) {
  return make("ol", { ariaLabel: "What was likely here" }, ...alternatives(entry).map(([text, logprob]) => {
    const bar = make("i");
    bar.style.setProperty("--share", String(Math.exp(logprob)));
    return make("li", { className: text === entry.text ? "chosen" : "", title: `log-probability ${logprob.toFixed(3)}` },
      make("code", { textContent: visible(text) }), make("span", { className: "share", textContent: share(Math.exp(logprob)) }),
      make("span", { className: "gauge" }, bar));
  }));
}

function sentence(entry) {
  const others = alternatives(entry).filter(([text]) => text !== entry.text).map(([text, p]) => `${visible(text)} ${share(Math.exp(p))}`);
  return `${visible(entry.text)}: ${share(Math.exp(entry.logprob))}${others.length ? `; else ${others.join(", ")}` : ""}`;
}
