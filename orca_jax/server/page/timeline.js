// The iteration timeline: who was in which iteration, as what. Phases differ in height and texture as well as in colour.

import { colours, sheet } from "./dom.js";
import { shortId } from "./format.js";
import { CHUNK, INCREMENT, INITIATION, WAITING } from "./feed.js";

const HEIGHTS = { [INITIATION]: 1, [CHUNK]: 1, [INCREMENT]: 0.55, [WAITING]: 0.1 };
const STYLES = { [INITIATION]: "initiation", [CHUNK]: "chunk", [INCREMENT]: "increment", [WAITING]: "waiting" };
const AXIS = 20; // pixels under the lanes
const GLIDE = 240; // milliseconds in which news move in
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Timeline {
  /** `onPick(lane, column)` is told what is looked at, nulls for nothing; `spoken` says that the keyboard chose it. */
  constructor(canvas, onPick) {
    this.canvas = canvas;
    this.onPick = onPick;
    this.columns = [];
    this.lanes = new Map();
    this.order = []; // the lanes shown, top to bottom
    this.picked = { lane: null, column: null };
    this.shown = 0; // the iteration at the right edge, moving towards the newest
    this.frame = null;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  update(columns, lanes) {
    const first = !this.columns.length;
    this.columns = columns;
    this.lanes = lanes;
    const newest = columns.at(-1)?.number ?? 0;
    if (first || calm.matches || newest < this.shown || newest - this.shown > 300) this.shown = newest;
    this.from = this.shown;
    this.begun = performance.now();
    this.frame ??= requestAnimationFrame(() => this.glide());
  }

  glide() {
    this.frame = null;
    const newest = this.columns.at(-1)?.number ?? 0;
    const part = Math.min(1, (performance.now() - this.begun) / GLIDE);
    this.shown = this.from + (newest - this.from) * part;
    this.draw();
    if (part < 1) this.frame = requestAnimationFrame(() => this.glide());
  }

  /** Where things stand: columns `step` wide end at `right`; lanes are `lane` high. */
  measure(width, height) {
    const gutter = width < 520 ? 58 : 92;
    const step = width < 520 ? 5 : 7;
    const room = Math.floor((width - gutter) / step);
    const visible = this.columns.filter((column) => column.number > this.shown - room && column.number <= this.shown + 1);
    const present = new Set();
    for (const column of visible) for (const lane of column.cells.keys()) present.add(lane);
    const most = Math.floor((height - AXIS) / 5);
    const order = [...present].sort((a, b) => a - b).slice(-most);
    const lane = Math.max(5, Math.min(22, (height - AXIS) / Math.max(1, order.length)));
    return { gutter, step, visible, order, lane, width, height };
  }

  x(number) { return this.plan.width - (this.shown - number + 1) * this.plan.step; }

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
      const tall = Math.max(1, Math.round(thick * HEIGHTS[phase]));
      const gap = phase === WAITING ? 0 : phase === CHUNK ? 2 : 1;
      for (const column of visible) {
        const x = this.x(column.number);
        for (const [number, code] of column.cells) {
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
      if (x > gutter + 14 && x < width - 14) pen.fillText(String(n), x, height - 5);
    }
    pen.fillStyle = colours.line;
    pen.fillRect(gutter, height - AXIS, width - gutter, 1);
  }

  highlight(pen, row) {
    const { gutter, lane, step, width, height } = this.plan;
    const { lane: number, column } = this.picked;
    pen.fillStyle = colours.pick;
    if (row.has(number)) pen.fillRect(0, row.get(number) * lane, width, lane);
    if (column !== null && this.x(column) >= gutter) pen.fillRect(this.x(column), 0, step, height - AXIS);
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
      pen.fillStyle = number === this.picked.lane ? colours.ink : colours.faint;
      pen.fillText(shortId(about.id, gutter < 80 ? 7 : 11), gutter - 8, (i + 0.5) * lane);
    });
  }

  empty(pen) {
    pen.fillStyle = colours.faint;
    pen.font = "14px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.fillText("Nothing has run yet. Ask for something in the playground.", this.plan.width / 2, this.plan.height / 2, this.plan.width - 20);
  }

  pick(lane, column, spoken = false) {
    if (lane === this.picked.lane && column === this.picked.column) return;
    this.picked = { lane, column };
    this.onPick(lane, column, spoken);
    this.draw();
  }

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const column = Math.floor(this.shown + 1 - (this.plan.width - x) / this.plan.step);
      const known = this.columns.some((other) => other.number === column);
      this.pick(this.order[Math.floor(y / this.plan.lane)] ?? null, x > this.plan.gutter && known ? column : null);
    };
    this.canvas.addEventListener("pointermove", at);
    this.canvas.addEventListener("pointerdown", at);
    this.canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.pick(null, null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const { lane, column } = this.picked;
    const newest = this.columns.at(-1)?.number ?? 0;
    const oldest = this.columns[0]?.number ?? 0;
    const place = this.order.indexOf(lane);
    const move = (by) => this.order[place < 0 ? this.order.length - 1 : Math.max(0, Math.min(this.order.length - 1, place + by))] ?? null;
    const along = (by) => Math.max(oldest, Math.min(newest, (column ?? newest) + by));
    const moves = {
      ArrowUp: () => [move(-1), column], ArrowDown: () => [move(1), column],
      ArrowLeft: () => [lane, along(-1)], ArrowRight: () => [lane, along(1)], Escape: () => [null, null],
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.pick(...moves[event.key](), true);
  }
}
