"""The flags that show a run's iteration timeline, and the showing."""

import argparse
from typing import TYPE_CHECKING, TextIO

from orca_jax.cli.terminal import UsageError, colours, say, speaks_unicode, width

if TYPE_CHECKING:  # it needs numpy, which --help should not wait for
    from orca_jax.observe.timeline import Timeline, TimelineRecorder


def add_timeline_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeline", action="store_true", help="show afterwards who was in which iteration, and as what"
    )
    parser.add_argument("--timeline-png", metavar="FILE", help="write the same as a picture (needs Pillow)")


def recorder_for(args: argparse.Namespace) -> "TimelineRecorder | None":
    """A recorder if a timeline is wanted. Fails now, not after the run, where the picture could not be drawn."""
    if args.timeline_png:
        if not args.timeline_png.lower().endswith(".png"):
            raise UsageError(f"--timeline-png {args.timeline_png} is no name of a PNG (end it in .png)")
        from orca_jax.observe import picture  # noqa: F401  # raises with the way out where Pillow is missing
    if not (args.timeline or args.timeline_png):
        return None
    from orca_jax.observe.timeline import TimelineRecorder

    return TimelineRecorder()


def show_timeline(timeline: "Timeline", stream: TextIO) -> None:
    from orca_jax.observe.timeline_text import BLOCKS, LETTERS, render

    palette = BLOCKS if speaks_unicode(stream) else LETTERS
    print(render(timeline, width(), palette, colours(stream)), file=stream)


def save_picture(timeline: "Timeline", path: str) -> None:
    from orca_jax.observe import picture

    say(f"timeline written to {picture.save(timeline, path)}")


def show_wanted(args: argparse.Namespace, recorder: "TimelineRecorder | None", max_rows: int, stream: TextIO) -> None:
    """Show what the flags ask for. `max_rows` is the most rows that an iteration may have."""
    if recorder is None:
        return
    timeline = recorder.timeline(max_rows)
    if args.timeline:
        show_timeline(timeline, stream)
    if args.timeline_png:
        save_picture(timeline, args.timeline_png)
