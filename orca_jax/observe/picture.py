"""The timeline as a PNG, for a README or a report. Needs Pillow, the only place in the package that does.

Phases differ in height as well as in colour (of the Okabe-Ito set), so that nobody needs to tell the colours apart.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_jax.core.errors import OrcaError
from orca_jax.core.sequence import Phase
from orca_jax.observe.labels import one_line
from orca_jax.observe.timeline import ABSENT, CODES, Lane, Timeline
from orca_jax.observe.timeline_text import SMOOTHING, fold_of, rates, sums

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise OrcaError("drawing the timeline as a PNG needs Pillow: pip install pillow") from error

INK, FAINT, GRID, PAPER = "#222222", "#777777", "#dddddd", "#ffffff"
COLOURS = {
    CODES[Phase.INITIATION]: "#d55e00",
    CODES[Phase.CHUNK]: "#e69f00",
    CODES[Phase.INCREMENT]: "#0072b2",
    CODES[Phase.WAITING]: "#999999",
}
HEIGHTS = {
    CODES[Phase.INITIATION]: 1.0,
    CODES[Phase.CHUNK]: 1.0,
    CODES[Phase.INCREMENT]: 0.55,
    CODES[Phase.WAITING]: 0.12,
}
RATE_COLOUR = "#009e73"
MEANINGS = {
    Phase.INITIATION: "initiation: the whole prompt",
    Phase.CHUNK: "chunk: a part of a prompt",
    Phase.INCREMENT: "increment: one token",
    Phase.WAITING: "waiting",
}
MOST_LANES = 64


@dataclass(frozen=True, slots=True)
class _Page:
    """Where things stand, in pixels: the plot spans x from `left` to `right`; one lane is `lane` high."""

    width: int = 1600
    left: int = 330
    right: int = 1440
    top: int = 90
    lane: int = 28
    chart: int = 110
    gap: int = 44
    text: int = 17
    title: int = 24


def save(timeline: Timeline, path: str | Path, title: str = "One engine, iteration by iteration") -> Path:
    """Write the timeline to `path` as a PNG, making its folder, and return the path. Raises OrcaError."""
    path = Path(path)
    image = draw(timeline, title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG", optimize=True)
    except OSError as error:
        raise OrcaError(f"cannot write the timeline to {path}: {error.strerror or error}") from error
    return path


def draw(timeline: Timeline, title: str) -> Image.Image:
    """The first `MOST_LANES` lanes, the rows of each iteration and the tokens per second, over one axis."""
    page = _Page()
    lanes = timeline.lanes[:MOST_LANES]
    lanes_end = page.top + page.lane * len(lanes)
    rows_top = lanes_end + page.gap
    rates_top = rows_top + page.chart + page.gap
    height = rates_top + page.chart + 110
    image = Image.new("RGB", (page.width, height), PAPER)
    sheet = _Sheet(ImageDraw.Draw(image), page, timeline.num_iterations)
    sheet.write(24, 18, title, size=page.title)
    sheet.write(24, 52, _summary(timeline), colour=FAINT)
    sheet.axis(page.top, rates_top + page.chart)
    sheet.write(page.right + 16, page.top - 24, "prompt + new tokens", colour=FAINT, size=13)
    for number, lane in enumerate(lanes):
        _lane(sheet, page.top + number * page.lane, lane, timeline.cells[number])
    _rows_chart(sheet, rows_top, timeline)
    _rate_chart(sheet, rates_top, timeline)
    _legend(sheet, height - 38)
    return image


class _Sheet:
    """Draws in the plot's own units: x counts iterations, y pixels."""

    def __init__(self, canvas: ImageDraw.ImageDraw, page: _Page, num_iterations: int):
        self.canvas = canvas
        self.page = page
        self.num_iterations = max(1, num_iterations)
        self.per_iteration = (page.right - page.left) / self.num_iterations

    def x(self, iteration: float) -> float:
        return self.page.left + iteration * self.per_iteration

    def write(self, x: float, y: float, text: str, colour: str = INK, size: int = 0, anchor: str = "la") -> None:
        self.canvas.text((x, y), text, fill=colour, font=ImageFont.load_default(size or self.page.text), anchor=anchor)

    def bar(self, start: float, stop: float, top: float, bottom: float, colour: str) -> None:
        """A filled box over iterations `start` to `stop`; a sliver of paper parts neighbours if there is room."""
        parting = 1.0 if self.per_iteration >= 5 else 0.0
        left = self.x(start)
        self.canvas.rectangle((left, top, max(left, self.x(stop) - 1 - parting), bottom - 1), fill=colour)

    def axis(self, top: float, bottom: float) -> None:
        """Faint lines every so many iterations, their numbers underneath."""
        step = fold_of(self.num_iterations, 16)
        for iteration in range(0, self.num_iterations + 1, step):
            self.canvas.line((self.x(iteration), top, self.x(iteration), bottom), fill=GRID)
            self.write(self.x(iteration), bottom + 6, str(iteration), colour=FAINT, anchor="ma")
        self.write(self.x(self.num_iterations / 2), bottom + 28, "iteration", colour=FAINT, anchor="ma")

    def scale(self, top: float, name: str, highest: float) -> None:
        """The frame of a chart: its name and its highest value on the left, lines at 0, half and full height."""
        page = self.page
        highest = highest or 1.0
        for share in (0.0, 0.5, 1.0):
            y = top + page.chart * (1 - share)
            self.canvas.line((page.left, y, page.right, y), fill=GRID)
            self.write(page.left - 8, y, f"{highest * share:.{0 if highest >= 8 else 1}f}", colour=FAINT, anchor="rm")
        self.write(24, top + page.chart / 2, name, anchor="lm")


def _lane(sheet: _Sheet, top: float, lane: Lane, codes: np.ndarray) -> None:
    page = sheet.page
    middle = top + page.lane / 2
    sheet.write(24, middle, one_line(lane.label, 34), anchor="lm")
    sheet.write(page.right + 16, middle, f"{lane.prompt_len} + {lane.num_output}", colour=FAINT, anchor="lm")
    for start, stop, code in _runs(codes, apart=sheet.per_iteration >= 5):
        half = HEIGHTS[code] * (page.lane - 6) / 2
        sheet.bar(start, stop, middle - half, middle + half, COLOURS[code])


def _runs(codes: np.ndarray, apart: bool) -> list[tuple[int, int, int]]:
    """(start, stop, code) of the stretches where a lane is in one phase; one for each iteration where `apart`."""
    runs: list[tuple[int, int, int]] = []
    for iteration, code in enumerate(codes.tolist()):
        if code == ABSENT:
            continue
        grows = runs and runs[-1][1] == iteration and runs[-1][2] == code
        if grows and not (apart and code != CODES[Phase.WAITING]):
            runs[-1] = (runs[-1][0], iteration + 1, code)
        else:
            runs.append((iteration, iteration + 1, code))
    return runs


def _rows_chart(sheet: _Sheet, top: float, timeline: Timeline) -> None:
    """Rows of each iteration, increments below and prompts above them."""
    sheet.scale(top, "rows in the batch", timeline.max_rows)
    bottom = top + sheet.page.chart
    per_row = sheet.page.chart / max(1, timeline.max_rows)
    for iteration in range(timeline.num_iterations):
        base = bottom
        for phase in (Phase.INCREMENT, Phase.CHUNK, Phase.INITIATION):
            count = int((timeline.cells[:, iteration] == CODES[phase]).sum())
            if count:
                sheet.bar(iteration, iteration + 1, base - count * per_row, base, COLOURS[CODES[phase]])
                base -= count * per_row


def _rate_chart(sheet: _Sheet, top: float, timeline: Timeline) -> None:
    """New tokens per second, averaged over a few iterations so that the eye can follow."""
    rate = rates(timeline, SMOOTHING) if timeline.num_iterations else np.zeros(0)
    highest = _round_up(float(rate.max(initial=0.0)))
    sheet.scale(top, "new tokens per second", highest)
    for group, value in enumerate(rate.tolist()):
        if value > 0:
            start, stop = group * SMOOTHING, min((group + 1) * SMOOTHING, timeline.num_iterations)
            y = top + sheet.page.chart * (1 - value / highest)
            sheet.bar(start, stop, y, top + sheet.page.chart, RATE_COLOUR)


def _round_up(value: float) -> float:
    """The least of 1, 2, 4, 6, 8 times a power of ten that is not below `value`, so that the axis has plain numbers."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * 0.999))


def _legend(sheet: _Sheet, y: float) -> None:
    x = float(sheet.page.left)
    for phase, meaning in MEANINGS.items():
        half = HEIGHTS[CODES[phase]] * 9
        sheet.canvas.rectangle((x, y - half, x + 26, y + half), fill=COLOURS[CODES[phase]])
        sheet.write(x + 36, y, meaning, anchor="lm")
        x += 290


def _summary(timeline: Timeline) -> str:
    return (
        f"{len(timeline.lanes)} sequences, {timeline.num_iterations} iterations in {timeline.elapsed:.2f} s; "
        f"{timeline.mean_rows:.1f} of {timeline.max_rows} rows filled ({timeline.occupancy:.0%}); "
        f"{int(sums(timeline.kept, max(1, timeline.num_iterations)).sum())} new tokens, "
        f"{timeline.tokens_per_second:.0f} a second"
    )
