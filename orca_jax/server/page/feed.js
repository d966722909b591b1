// What the page knows of the engine: the stream of news, kept as columns, lanes and series of the last minutes.

import { events, request } from "./api.js";

const MOST_COLUMNS = 2400;
const MOST_BEATS = 480; // four a second: two minutes
const MINUTE = 60_000;

export const WAITING = "1", INCREMENT = "2", CHUNK = "3", INITIATION = "4";

export class Feed {
  constructor() {
    this.clear(null);
    this.onNews = () => {};
    this.onState = () => {};
    this.retry = null;
  }

  clear(run) {
    this.run = run;
    this.engine = null;
    this.columns = []; // { number, launched, done, tokens, shape, kept, reserved, used, waiting, cells: Map(lane, phase) }
    this.lanes = new Map(); // lane number -> { number, id, index, ... }
    this.beats = []; // { at, rate, waiting, ... }
    this.now = null;
  }

  /** Connect, and connect again whenever the stream ends, for as long as the page lives. */
  async listen() {
    for (let failures = 0; ; failures++) {
      try {
        const response = await request("live");
        for await (const data of events(response)) {
          failures = 0;
          this.take(JSON.parse(data));
          this.onState("live", "live");
        }
        this.onState("lost", "the server closed the stream");
      } catch (error) {
        const text = error.status === 401 ? "the server wants an API key" : error.status ? error.message : "no connection";
        this.onState("lost", text);
      }
      await this.pause(Math.min(8000, 500 * 2 ** failures));
    }
  }

  start() { this.listen(); }

  /** Try again now: a key was given, or the page is looked at again. */
  hurry() { this.retry?.(); }

  pause(milliseconds) {
    return new Promise((resolve) => {
      this.retry = resolve;
      setTimeout(resolve, milliseconds);
    });
  }

  take(news) {
    if (news.run !== this.run || news.engine) this.clear(news.run);
    if (news.engine) this.engine = news.engine;
    for (const [number, id, index, prompt, most, output, reason, queued, ttft, tbt, total] of news.lanes) {
      this.lanes.set(number, { number, id, index, prompt, most, output, reason, queued, ttft, tbt, total });
    }
    let cells = null;
    for (const [number, launched, done, tokens, shape, kept, reserved, used, waiting, lanes, phases] of news.columns) {
      if (lanes) cells = new Map(lanes.map((lane, i) => [lane, phases[i]]));
      this.columns.push({ number, launched, done, tokens, shape, kept, reserved, used, waiting, cells });
    }
    this.columns.splice(0, this.columns.length - MOST_COLUMNS);
    this.forget();
    this.beat(news);
    this.now = news;
    this.onNews();
  }

  /** Lanes that are in no column any more and have ended. */
  forget() {
    if (this.lanes.size < 400) return;
    const seen = new Set(this.columns.flatMap((column) => [...column.cells.keys()]));
    for (const [number, lane] of this.lanes) if (lane.reason && !seen.has(number)) this.lanes.delete(number);
  }

  beat(news) {
    const at = performance.now();
    const last = this.beats.at(-1);
    if (last && at - last.at < 150) return; // two that came together would make a rate of nothing but their distance
    const elapsed = last ? (at - last.at) / 1000 : 0;
    const rate = last && elapsed > 0 ? Math.max(0, (news.generation_tokens - last.generated) / elapsed) : 0;
    this.beats.push({
      at, rate, generated: news.generation_tokens, running: news.running, waiting: news.waiting,
      reserved: news.pages_reserved, used: news.pages_used, ttft: news.ttft, tbt: news.tbt,
    });
    this.beats.splice(0, this.beats.length - MOST_BEATS);
  }

  /** Called now and then: where no news came, nothing is going on, and the charts shall say so. */
  idle() {
    const last = this.beats.at(-1);
    if (last && performance.now() - last.at > 700) this.beats.push({ ...last, at: performance.now(), rate: 0 });
    this.beats.splice(0, this.beats.length - MOST_BEATS);
  }

  /** Iterations a second over the last columns, 0 of fewer than two. */
  get pace() {
    const last = this.columns.slice(-60);
    const elapsed = last.length > 1 ? last.at(-1).done - last[0].done : 0;
    return elapsed > 0 ? (last.at(-1).number - last[0].number) / elapsed : 0;
  }

  /** Counts of the last minute's values of a distribution, "ttft" or "tbt"; the whole run's where the minute has none. */
  lastMinute(name) {
    if (!this.now) return { counts: [], whole: false };
    const from = this.beats.find((beat) => beat.at > performance.now() - MINUTE) ?? this.beats.at(-1);
    const recent = this.now[name].map((n, i) => n - from[name][i]);
    const whole = !recent.some((n) => n > 0);
    return { counts: whole ? this.now[name] : recent, whole };
  }

  /** New tokens a second over the last second or so. */
  get rate() {
    const last = this.beats.slice(-4);
    return last.reduce((sum, beat) => sum + beat.rate, 0) / Math.max(1, last.length);
  }
}
