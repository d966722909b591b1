// Several iterations in one column, where the engine is faster than the eye.

const FASTEST = 60; // columns a second
const SLOWEST = 20;

/** How many iterations a column should stand for at `pace` iterations a second: `before`, unless it fits badly. */
export function sizeFor(pace, before) {
  let size = before;
  while (pace / size > FASTEST) size *= 2;
  while (size > 1 && pace / size < SLOWEST) size /= 2;
  return size;
}

/** The newest `most` folds of `columns`, oldest first. A lane shows its loudest phase: the rarer, the louder. */
export function folded(columns, size, most) {
  const folds = [];
  for (let i = columns.length - 1; i >= 0; i--) {
    const column = columns[i];
    const at = Math.floor(column.number / size);
    let fold = folds.at(-1);
    if (fold?.at !== at) {
      if (folds.length === most) break;
      fold = { at, first: column.number, last: column.number, launched: column.launched, done: column.done, columns: [], cells: new Map() };
      folds.push(fold);
    }
    fold.first = column.number;
    fold.launched = column.launched;
    fold.columns.push(column);
    if (fold.seen === column.cells) continue; // the same cells as those just taken
    fold.seen = column.cells;
    for (const [lane, code] of column.cells) if (!(fold.cells.get(lane) >= code)) fold.cells.set(lane, code);
  }
  return folds.reverse();
}
