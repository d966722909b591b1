// Numbers for people.

/** Seconds, in the unit that leaves three digits. */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 0.00095) return `${Math.round(value * 1e6)} µs`;
  if (value < 0.0995) return `${(value * 1e3).toPrecision(2)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1e3)} ms`;
  return value < 99.5 ? `${value.toPrecision(3)} s` : `${Math.round(value)} s`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

export function share(value) {
  return value < 0.001 ? "<0.1 %" : `${(value * 100).toFixed(value < 0.0995 ? 1 : 0)} %`;
}

/** A request id without what all ids begin with, its end where it is still long. */
export function shortId(id, length = 8) {
  return id.replace(/^(chat)?cmpl-/, "").slice(-length);
}

/** The value below which `part` of a histogram's values lie, taken to be spread evenly in each bucket; null of none. */
export function quantile(bounds, counts, part) {
  const total = counts.reduce((sum, n) => sum + n, 0);
  if (!total) return null;
  let left = part * total;
  for (let i = 0; i < counts.length; i++) {
    if (left <= counts[i]) {
      const low = i ? bounds[i - 1] : 0;
      return i < bounds.length ? low + (bounds[i] - low) * (left / counts[i]) : low;
    }
    left -= counts[i];
  }
  return bounds.at(-1);
}
