"""The learning curve as a PNG. Pillow draws it: two lines on a grid are no reason to install a plotting library."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 1200, 640
LEFT, RIGHT, TOP, BOTTOM = 80, 1120, 60, 570
INK, GRID, PAPER = "#222222", "#dddddd", "#ffffff"
LOSS, BITS = "#0072b2", "#d55e00"

Point = tuple[float, float]


def draw_curve(notes: Sequence[dict[str, float]], file: Path, title: str) -> None:
    """Draws training loss (nats per token, left axis) and held-out bits per byte (right axis) over the tokens seen."""
    loss = [(note["tokens"] / 1e6, note["loss"]) for note in notes if "loss" in note]
    bits = [(note["tokens"] / 1e6, note["bits_per_byte"]) for note in notes if "bits_per_byte" in note]
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(17)
    end = max((x for x, _ in loss + bits), default=1.0)
    x = _axis((0.0, end), LEFT, RIGHT)
    draw.text((LEFT, 8), title, fill=INK, font=font)
    for tick in _ticks(0.0, end):
        draw.line([(x(tick), TOP), (x(tick), BOTTOM)], fill=GRID)
        draw.text((x(tick), BOTTOM + 8), f"{tick:g}", fill=INK, font=font, anchor="ma")
    draw.text(((LEFT + RIGHT) / 2, BOTTOM + 34), "million tokens seen", fill=INK, font=font, anchor="ma")
    _series(draw, font, loss, x, LOSS, "training loss, nats per token", right=False)
    _series(draw, font, bits, x, BITS, "held-out bits per byte", right=True)
    image.save(file)


def _series(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    points: Sequence[Point],
    x: Callable[[float], float],
    colour: str,
    label: str,
    *,
    right: bool,
) -> None:
    """One line with its own vertical axis, on the left or on the right."""
    if not points:
        return
    low, high = min(y for _, y in points), max(y for _, y in points)
    low, high = math.floor(low * 5) / 5, math.ceil(high * 5) / 5 + 1e-9
    y = _axis((low, max(high, low + 0.2)), BOTTOM, TOP)
    edge, anchor = (RIGHT + 8, "lm") if right else (LEFT - 8, "rm")
    for tick in _ticks(low, high):
        draw.text((edge, y(tick)), f"{tick:g}", fill=colour, font=font, anchor=anchor)
    draw.text((RIGHT if right else LEFT, TOP - 6), label, fill=colour, font=font, anchor="rb" if right else "lb")
    places = [(x(a), y(b)) for a, b in points]
    draw.line(places, fill=colour, width=2)
    if right:
        for a, b in places:
            draw.ellipse([a - 4, b - 4, a + 4, b + 4], fill=colour)


def _axis(values: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    low, high = values
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers from `low` to `high`."""
    rough = max(high - low, 1e-9) / 6
    scale = 10 ** math.floor(math.log10(rough))
    step = next(scale * m for m in (1, 2, 5, 10) if scale * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, int(high / step + 1e-9) + 1)]
