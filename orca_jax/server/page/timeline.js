// The iteration timeline: who was in which iteration, as what. Phases differ in height and texture as well as in colour.

import { colours, sheet } from "./dom.js";
import { shortId } from "./format.js";
import { CHUNK, INCREMENT, INITIATION, WAITING } from "./feed.js";
import { folded, sizeFor } from "./fold.js";

const HEIGHTS = { [INITIATION]: 1, [CHUNK]: 1, [INCREMENT]: 0.55, [WAITING]: 0.1 };
const STYLES = { [INITIATION]: "initiation", [CHUNK]: "chunk", [INCREMENT]: "increment", [WAITING]: "waiting" };
const AXIS = 20; // pixels under the lanes
const GLIDE = 240; // milliseconds in which news move in
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const MOST_FOLDS = 400;

export class Timeline {
  /** `onPick(spoken)` is called when something else is looked at; `spoken` says that the keyboard chose it. */
  constructor(canvas, onPick) {
    this.canvas = canvas;
    this.onPick = onPick;
    this.mine = new Set(); // ids of requests that were asked for on this page
    this.folds = [];
    this.lanes = new Map();
    this.order = []; // the lanes shown, top to bottom
    this.picked = { lane: null, at: null };
    this.size = 1; // iterations in a column
    this.shown = 0; // the fold at the right edge, moving towards the newest
    this.frame = null;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  get newest() { return this.folds.at(-1)?.at ?? 0; }
  get pickedLane() { return this.lanes.get(this.picked.lane) ?? null; }
  get pickedFold() { return this.folds.find((fold) => fold.at === this.picked.at) ?? null; }

  update(columns, lanes, pace) {
    const before = this.size;
    this.size = sizeFor(pace, before);
    const fresh = !this.folds.length || this.size !== before;
    this.folds = folded(columns, this.size, MOST_FOLDS);
    this.lanes = lanes;
    if (this.size !== before) this.picked.at = null;
    const ahead = this.newest - this.shown;
    if (fresh || calm.matches || ahead < 0 || ahead > 100) this.shown = this.newest;
    this.from = this.shown;
    this.begun = performance.now();
    this.frame ??= requestAnimationFrame(() => this.glide());
  }

  glide() {
    this.frame = null;
    const part = Math.min(1, (performance.now() - this.begun) / GLIDE);
    this.shown = this.from + (this.newest - this.from) * part;
    this.draw();
    if (part < 1) this.frame = requestAnimationFrame(() => this.glide());
  }

  /** Where things stand: folds `step` wide end at the right edge; lanes are `lane` high. */
  measure(width, height) {
    const gutter = width < 520 ? 62 : 76;
    const step = width < 520 ? 5 : 7;
    const room = Math.floor((width - gutter) / step);
    const visible = this.folds.filter((fold) => fold.at > this.shown - room && fold.at <= this.shown + 1);
    const present = new Set();
    for (const fold of visible) for (const lane of fold.cells.keys()) present.add(lane);
    const most = Math.floor((height - AXIS) / 5);
    const order = [...present].sort((a, b) => a - b).slice(-most);
    const lane = Math.max(5, Math.min(22, (height - AXIS) / Math.max(1, order.length)));
    return { gutter, step, visible, order, lane, width, height };
  }

  x(at) { return this.plan.width - (this.shown - at + 1) * this.plan.step; }

  draw() {
    const { pen, width, height } = sheet(this.canvas);
    this.plan = this.measure(width, height);
    const { gutter, step, visible, lane } = this.plan;
    this.order = this.plan.order;
    const row = new Map(this.order.map((number, i) => [number, i]));
    this.grid(pen);
    this.highlight(pen, row);
    pen.save();
    pen.beginPath();
    pen.rect(gutter, 0, width - gutter, height - AXIS);
    pen.clip();
    const thick = Math.max(3, lane - (lane > 9 ? 3 : 1));
    for (const phase of [WAITING, INCREMENT, CHUNK, INITIATION]) {
      pen.fillStyle = colours[STYLES[phase]];
      const tall = Math.max(2, Math.round(thick * HEIGHTS[phase]));
      const gap = phase === WAITING ? 0 : phase === CHUNK ? 2 : 1;
      for (const fold of visible) {
        const x = this.x(fold.at);
        for (const [number, code] of fold.cells) {
          if (code === phase && row.has(number)) pen.fillRect(x, row.get(number) * lane + (lane - tall) / 2, step - gap, tall);
        }
      }
    }
    pen.restore();
    this.labels(pen);
    if (!visible.length) this.empty(pen);
  }

  grid(pen) {
    const { gutter, step, width, height } = this.plan;
    const every = width < 520 ? 20 : 25;
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    for (let n = Math.floor(this.shown / every) * every; n >= 0; n -= every) {
      const x = this.x(n);
      if (x < gutter) break;
      pen.fillStyle = colours.grid;
      pen.fillRect(x, 0, 1, height - AXIS + 3);
      pen.fillStyle = colours.faint;
      if (x > gutter + 14 && x < width - 14) pen.fillText(String(n * this.size), x, height - 5);
    }
    pen.fillStyle = colours.line;
    pen.fillRect(gutter, height - AXIS, width - gutter, 1);
  }

  highlight(pen, row) {
    const { gutter, lane, step, width, height } = this.plan;
    const { lane: number, at } = this.picked;
    pen.fillStyle = colours.pick;
    if (row.has(number)) pen.fillRect(0, row.get(number) * lane, width, lane);
    if (at !== null && this.x(at) >= gutter) pen.fillRect(this.x(at), 0, step, height - AXIS);
  }

  labels(pen) {
    const { gutter, lane } = this.plan;
    if (lane < 11) return;
    pen.font = "11px ui-monospace, monospace";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    this.order.forEach((number, i) => {
      const about = this.lanes.get(number);
      if (!about) return;
      pen.fillStyle = number === this.picked.lane ? colours.ink : this.isMine(about.id) ? colours.accent : colours.faint;
      pen.fillText(shortId(about.id), gutter - 8, (i + 0.5) * lane, gutter - 10);
    });
  }

  empty(pen) {
    pen.fillStyle = colours.faint;
    pen.font = "14px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText("Nothing has run yet. Ask for something in the playground.", this.plan.width / 2, this.plan.height / 2, this.plan.width - 20);
  }

  /** The engine's ids are the answer's id with a number behind it. */
  isMine(id) { return [...this.mine].some((mine) => id === mine || id.startsWith(`${mine}.`)); }

  pick(lane, at, spoken = false) {
    if (lane === this.picked.lane && at === this.picked.at) return;
    this.picked = { lane, at };
    this.onPick(spoken);
    this.draw();
  }

  listen() {
    const point = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const at = Math.floor(this.shown + 1 - (this.plan.width - x) / this.plan.step);
      const known = x > this.plan.gutter && this.folds.some((fold) => fold.at === at);
      this.pick(this.order[Math.floor(y / this.plan.lane)] ?? null, known ? at : null);
    };
    this.canvas.addEventListener("pointermove", point);
    this.canvas.addEventListener("pointerdown", point);
    this.canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.pick(null, null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const { lane, at } = this.picked;
    const last = this.order.length - 1;
    const place = this.order.indexOf(lane);
    const beside = (by) => this.order[place < 0 ? last : Math.max(0, Math.min(last, place + by))] ?? null;
    const along = (by) => Math.max(this.folds[0]?.at ?? 0, Math.min(this.newest, (at ?? this.newest) + by));
    const moves = {
      ArrowUp: () => [beside(-1), at], ArrowDown: () => [beside(1), at],
      ArrowLeft: () => [lane, along(-1)], ArrowRight: () => [lane, along(1)], Escape: () => [null, null],
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.pick(...moves[event.key](), true);
  }
}
