// Joins the parts: the feed's news go to the timeline, the charts and the table.

import { setKey, getKey } from "./api.js";
import { histogram, lines } from "./charts.js";
import { byId, tell, watchTheme } from "./dom.js";
import { Feed } from "./feed.js";
import { count, quantile, seconds } from "./format.js";
import { startPlayground } from "./playground.js";
import { showFacts, showTable, speak } from "./requests.js";
import { Timeline } from "./timeline.js";

const feed = new Feed();
let paused = false;

const timeline = new Timeline(byId("timeline"), (spoken) => {
  showFacts(byId("inspector"), timeline.pickedLane, timeline.pickedFold);
  if (spoken) speak(timeline.pickedLane, timeline.pickedFold);
});

function chart(id, now, said, draw) {
  tell(byId(`${id}-now`), now);
  byId(id).setAttribute("aria-label", said);
  draw(byId(id));
}

function distribution(id, title) {
  const { counts, whole } = feed.lastMinute(id);
  const bounds = feed.engine?.[`${id}_bounds`] ?? [];
  const [middle, high] = [quantile(bounds, counts, 0.5), quantile(bounds, counts, 0.95)];
  const span = whole ? "since the start" : "of the last minute";
  const now = middle === null ? "–" : `${seconds(middle)} · p95 ${seconds(high)}`;
  chart(id, now, `${title} ${span}: median ${seconds(middle)}, 95th percentile ${seconds(high)}`,
    (canvas) => histogram(canvas, bounds, counts, middle));
}

function showCharts() {
  const { now, engine, beats } = feed;
  if (!now || !engine) return;
  const at = beats.map((beat) => beat.at);
  const line = (key, colour) => ({ at, values: beats.map((beat) => beat[key]), colour });
  chart("batch", `${now.running} of ${engine.max_num_seqs}`, `${now.running} of ${engine.max_num_seqs} rows are taken`,
    (canvas) => lines(canvas, [line("running", "increment")], { top: engine.max_num_seqs }));
  chart("pages", `${count(now.pages_used)} used · ${count(now.pages_reserved)} reserved of ${count(engine.num_pages)}`,
    `${now.pages_reserved} of ${engine.num_pages} pages are reserved, ${now.pages_used} hold tokens`,
    (canvas) => lines(canvas, [line("reserved", "waiting"), line("used", "increment")], { top: engine.num_pages, label: count }));
  chart("queue", count(now.waiting), `${now.waiting} sequences wait`, (canvas) => lines(canvas, [line("waiting", "chunk")]));
  chart("rate", count(feed.rate), `${count(feed.rate)} new tokens a second`,
    (canvas) => lines(canvas, [line("rate", "rate")], { label: count }));
  distribution("ttft", "Time to first token");
  distribution("tbt", "Time between tokens");
}

function show() {
  if (!paused) {
    timeline.update(feed.columns, feed.lanes, feed.pace);
    tell(byId("scale"), timeline.size > 1 ? `1 column = ${timeline.size} iterations` : "");
    showFacts(byId("inspector"), timeline.pickedLane, timeline.pickedFold);
  }
  tell(byId("model"), feed.engine?.model ?? "");
  if (document.hidden) return;
  showCharts();
  showTable(feed.lanes);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  tell(byId("pause"), paused ? "Resume" : "Pause");
  if (paused) timeline.update([...feed.columns], new Map(feed.lanes), feed.pace);
  else show();
});

byId("table-box").addEventListener("toggle", () => showTable(feed.lanes));
byId("key").value = getKey();
byId("key-box").hidden = !getKey();
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value.trim());
  byId("key-box").open = false;
  feed.hurry();
});
byId("key-box").addEventListener("keydown", (event) => { if (event.key === "Escape") byId("key-box").open = false; });
document.addEventListener("visibilitychange", () => { if (!document.hidden) show(); });

feed.onNews = show;
feed.onState = (state, text) => {
  byId("state").dataset.state = state;
  tell(byId("state"), text);
  if (text.includes("API key")) Object.assign(byId("key-box"), { hidden: false, open: true });
};
watchTheme(() => { timeline.draw(); showCharts(); });
new ResizeObserver(showCharts).observe(document.querySelector(".charts"));
showFacts(byId("inspector"), null, null);
startPlayground((id) => timeline.mine.add(id));
setInterval(() => { feed.idle(); if (!document.hidden) showCharts(); }, 1000);
feed.start();
