// One request in words: beside the timeline, in the table, and for a screen reader.

import { byId, make, tell } from "./dom.js";
import { seconds } from "./format.js";
import { CHUNK, INCREMENT, INITIATION, WAITING } from "./feed.js";

const PHASES = { [WAITING]: "waiting", [INCREMENT]: "increment", [CHUNK]: "chunk", [INITIATION]: "initiation" };
const MOST_ROWS = 40;

export function name(lane) {
  return lane.index ? `${lane.id} [${lane.index}]` : lane.id;
}

export function state(lane) {
  if (lane.reason) return lane.reason;
  return lane.queued === null ? "waiting" : "running";
}

/** [what, value] pairs that describe a lane in a fold of iterations; either may be null. */
export function facts(lane, fold) {
  return [...(lane ? ofLane(lane) : []), ...(fold ? ofFold(fold, lane) : [])];
}

function ofLane(lane) {
  const pairs = [
    ["state", state(lane)], ["prompt", `${lane.prompt} tokens`], ["new", `${lane.output} of at most ${lane.most}`],
    ["queued", seconds(lane.queued)], ["first token", seconds(lane.ttft)], ["per token", seconds(lane.tbt)],
  ];
  return lane.total === null ? pairs : [...pairs, ["in all", seconds(lane.total)]];
}

function ofFold({ first, last, launched, done, columns, cells }, lane) {
  const which = first === last ? `iteration ${first}` : `iterations ${first} to ${last}`;
  const phase = lane && cells.get(lane.number);
  const rows = [...cells.values()].filter((code) => code !== WAITING).length;
  const [tokens, shape] = [total(columns, "tokens"), total(columns, "shape")];
  return [
    [which, phase ? PHASES[phase] : `${rows} rows`],
    ["tokens", shape > tokens ? `${tokens} in shapes of ${shape}` : String(tokens)],
    ["took", seconds(done - launched)],
  ];
}

const total = (columns, key) => columns.reduce((sum, column) => sum + column[key], 0);

export function showFacts(element, lane, fold) {
  const pieces = facts(lane, fold).map(([what, value]) => make("span", {}, `${what} `, make("b", { textContent: value })));
  if (lane) pieces.unshift(make("span", {}, make("b", { textContent: name(lane) })));
  element.replaceChildren(...(pieces.length ? pieces : ["Point at a request, or use the arrow keys, for its numbers."]));
}

export function speak(lane, fold) {
  const text = facts(lane, fold).map(([what, value]) => `${what} ${value}`).join(", ");
  tell(byId("said"), lane ? `${name(lane)}: ${text}` : text || "nothing chosen");
}

/** The latest requests, newest first. Rebuilt only while somebody has it open. */
export function showTable(lanes) {
  if (!byId("table-box").open) return;
  const latest = [...lanes.values()].sort((a, b) => b.number - a.number).slice(0, MOST_ROWS);
  byId("rows").replaceChildren(...latest.map((lane) => {
    const cells = [
      name(lane), state(lane), lane.prompt, lane.output,
      seconds(lane.queued), seconds(lane.ttft), seconds(lane.tbt), seconds(lane.total),
    ];
    return make("tr", {}, ...cells.map((text) => make("td", { textContent: String(text) })));
  }));
}
