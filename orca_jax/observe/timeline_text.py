"""The timeline in a terminal: a row for each sequence, a column for each iteration, what it cost underneath."""

from dataclasses import dataclass

import numpy as np

from orca_jax.core.sequence import Phase
from orca_jax.observe.labels import columns, one_line, padded
from orca_jax.observe.timeline import ABSENT, CODES, Lane, Timeline

LONGEST_LABEL = 30
FEWEST_COLUMNS = 20
SMOOTHING = 8  # iterations over which tokens per second are averaged
RESET = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Palette:
    """How each code looks (glyph and ANSI colour) and the bars of the small charts, lowest first."""

    glyphs: dict[int, str]
    colours: dict[int, str]
    bars: str


_COLOURS = {
    CODES[Phase.INITIATION]: "\x1b[1;31m",
    CODES[Phase.CHUNK]: "\x1b[33m",
    CODES[Phase.INCREMENT]: "\x1b[36m",
    CODES[Phase.WAITING]: "\x1b[2m",
}
BLOCKS = Palette({ABSENT: " ", 1: "·", 2: "─", 3: "▓", 4: "█"}, _COLOURS, " ▁▂▃▄▅▆▇█")
LETTERS = Palette({ABSENT: " ", 1: ".", 2: "-", 3: "c", 4: "I"}, _COLOURS, " .:-=+*#@")


def render(timeline: Timeline, width: int = 100, palette: Palette = BLOCKS, colour: bool = False,
           max_lanes: int = 64) -> str:  # fmt: skip
    """The timeline as lines of at most `width` columns; iterations are folded until they fit.

    In a folded column the loudest phase shows: initiation, then chunk, increment, waiting. Of more than `max_lanes`
    sequences only the first are drawn, and the rest are counted.
    """
    if not timeline.num_iterations:
        return "timeline: nothing ran"
    shown = timeline.lanes[:max_lanes]
    labels = [_label(number, lane) for number, lane in enumerate(shown)]
    margin = max(columns(label) for label in [*labels, "tokens/s"]) + 1
    fold = fold_of(timeline.num_iterations, max(FEWEST_COLUMNS, width - margin - 2))
    lines = [padded("iteration", margin) + _ruler(timeline.num_iterations, fold)]
    for label, codes in zip(labels, folded(timeline.cells[: len(shown)], fold), strict=True):
        lines.append(padded(label, margin) + _cells(codes, palette, colour))
    if len(timeline.lanes) > len(shown):
        lines.append(f"... and {len(timeline.lanes) - len(shown)} more sequences")
    lines += [padded(name, margin) + chart for name, chart in _charts(timeline, fold, palette)]
    return "\n".join([*lines, _legend(palette, colour, fold), _totals(timeline)])


def fold_of(num_iterations: int, num_columns: int) -> int:
    """How many iterations share a column: 1, 2, 5, 10, 20, 50, ..., so that the ruler stays readable."""
    fold = 1
    while -(-num_iterations // fold) > num_columns:
        fold = fold * 5 // 2 if str(fold).startswith("2") else fold * 2
    return fold


def folded(cells: np.ndarray, fold: int) -> np.ndarray:
    """`cells u8[N, I]` to u8[N, ceil(I / fold)], the largest code of each group."""
    num_lanes, num_iterations = cells.shape
    padding = -num_iterations % fold
    wide = np.pad(cells, ((0, 0), (0, padding)))
    return wide.reshape(num_lanes, -1, fold).max(axis=2, initial=ABSENT)


def sums(values: np.ndarray, fold: int) -> np.ndarray:
    """`values [I]` summed in groups of `fold`."""
    return np.pad(values, (0, -len(values) % fold)).reshape(-1, fold).sum(axis=1)


def rates(timeline: Timeline, fold: int, window: int = 1) -> np.ndarray:
    """New tokens per second in each group of `fold` iterations, averaged over `window` groups around it.

    Where an engine runs ahead, an iteration by itself may seem to take no time at all: the host reads two in a row.
    """
    near = np.ones(window)
    kept = np.convolve(sums(timeline.kept, fold), near)[window // 2 :][: -(-timeline.num_iterations // fold)]
    seconds = np.convolve(sums(timeline.seconds, fold), near)[window // 2 :][: len(kept)]
    return np.divide(kept, seconds, out=np.zeros_like(seconds), where=seconds > 0)


def _label(number: int, lane: Lane) -> str:
    return f"{number:>2} " + one_line(lane.label, LONGEST_LABEL)


def _ruler(num_iterations: int, fold: int) -> str:
    marks = ""
    for column in range(0, -(-num_iterations // fold), 10):
        marks = marks.ljust(column) + str(column * fold)
    return marks


def _cells(codes: np.ndarray, palette: Palette, colour: bool) -> str:
    text, current = "", ABSENT
    for code in codes.tolist():
        if colour and code != current:
            text += (RESET if current != ABSENT else "") + palette.colours.get(code, "")
            current = code
        text += palette.glyphs[code]
    return (text + RESET if current != ABSENT else text).rstrip(" ")


def _charts(timeline: Timeline, fold: int, palette: Palette) -> list[tuple[str, str]]:
    counts = sums(np.ones(timeline.num_iterations), fold)
    rate = rates(timeline, fold, max(1, SMOOTHING // fold))
    return [
        ("rows", _bars(sums(timeline.rows, fold) / counts, timeline.max_rows, palette)),
        ("tokens/s", _bars(rate, float(rate.max()), palette)),
    ]


def _bars(values: np.ndarray, top: float, palette: Palette) -> str:
    levels = len(palette.bars) - 1
    heights = np.ceil(values / top * levels) if top > 0 else np.zeros(len(values))
    return "".join(palette.bars[int(height)] for height in np.clip(heights, 0, levels))


def _legend(palette: Palette, colour: bool, fold: int) -> str:
    parts = []
    for phase in (Phase.INITIATION, Phase.CHUNK, Phase.INCREMENT, Phase.WAITING):
        glyph = palette.glyphs[CODES[phase]]
        parts.append((f"{palette.colours[CODES[phase]]}{glyph}{RESET}" if colour else glyph) + f" {phase.value}")
    column = "a column is one iteration" if fold == 1 else f"a column is {fold} iterations"
    return "   ".join([*parts, column])


def _totals(timeline: Timeline) -> str:
    return (
        f"{timeline.num_iterations} iterations in {timeline.elapsed:.2f} s: {timeline.mean_rows:.1f} of "
        f"{timeline.max_rows} rows filled ({timeline.occupancy:.0%}), {int(timeline.kept.sum())} new tokens, "
        f"{timeline.tokens_per_second:.0f} tokens/s"
    )
