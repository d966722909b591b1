// Small charts: a line or an area of the last two minutes, and a histogram. One scale each, from 0.

import { colours, sheet } from "./dom.js";
import { seconds } from "./format.js";

const PAD = { top: 4, bottom: 14 };

const LONGEST = 120_000; // milliseconds
const SHORTEST = 15_000;

/** `series`: [{ at, values, colour }], drawn over each other; `top` is the scale's end, or beyond the largest value. */
export function lines(canvas, series, { top = null, label = String } = {}) {
  const { pen, width, height } = sheet(canvas);
  const now = performance.now();
  const span = Math.max(SHORTEST, Math.min(LONGEST, now - (series[0].at[0] ?? now)));
  const highest = top ?? round(Math.max(1, ...series.flatMap((one) => one.values)));
  const floor = height - PAD.bottom;
  const x = (at) => width * (1 - (now - at) / span);
  const y = (value) => floor - (floor - PAD.top) * Math.min(1, value / highest);
  frame(pen, width, floor, label(highest));
  for (const { at, values, colour } of series) {
    if (!at.length) continue;
    pen.beginPath();
    values.forEach((value, i) => pen.lineTo(x(at[i]), y(value)));
    pen.lineTo(width, y(values.at(-1)));
    pen.strokeStyle = pen.fillStyle = colours[colour];
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    pen.stroke();
    pen.lineTo(width, floor);
    pen.lineTo(x(at[0]), floor);
    pen.globalAlpha = 0.16;
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.fillStyle = colours.faint;
  pen.textAlign = "left";
  pen.fillText(span < 100_000 ? `${Math.round(span / 1000)} s ago` : "2 min ago", 0, height - 2);
  pen.textAlign = "right";
  pen.fillText("now", width, height - 2);
}

/** Bars of the buckets that are used, and one on either side; the middle value is marked. */
export function histogram(canvas, bounds, counts, middle) {
  const { pen, width, height } = sheet(canvas);
  const floor = height - PAD.bottom;
  frame(pen, width, floor, "");
  const used = counts.map((n, i) => (n > 0 ? i : -1)).filter((i) => i >= 0);
  if (!used.length) return;
  const first = Math.max(0, used[0] - 1);
  const last = Math.min(counts.length - 1, Math.max(used.at(-1) + 1, first + 7));
  const bar = width / (last - first + 1);
  const highest = Math.max(...counts);
  for (let i = first; i <= last; i++) {
    const tall = counts[i] ? Math.max(1.5, ((floor - PAD.top) * counts[i]) / highest) : 0;
    const inside = middle > (i ? bounds[i - 1] : 0) && middle <= (bounds[i] ?? Infinity);
    pen.fillStyle = inside ? colours.accent : colours.waiting;
    pen.fillRect((i - first) * bar + 1, floor - tall, Math.max(1, bar - 2), tall);
  }
  pen.fillStyle = colours.faint;
  pen.textAlign = "left";
  pen.fillText(seconds(first ? bounds[first - 1] : 0).replace("0 µs", "0"), 0, height - 2);
  pen.textAlign = "right";
  pen.fillText(last < bounds.length ? seconds(bounds[last]) : "more", width, height - 2);
}

function frame(pen, width, floor, label) {
  pen.font = "10.5px system-ui, sans-serif";
  pen.textBaseline = "alphabetic";
  pen.fillStyle = colours.grid;
  pen.fillRect(0, PAD.top, width, 1);
  pen.fillRect(0, (PAD.top + floor) / 2, width, 1);
  pen.fillStyle = colours.line;
  pen.fillRect(0, floor, width, 1);
  pen.fillStyle = colours.faint;
  pen.textAlign = "left";
  pen.fillText(label, 0, PAD.top + 11);
}

/** The next of 1, 2, 4, 6, 8 times a power of ten. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}
