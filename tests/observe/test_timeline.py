"""The timeline shows what the events say: phases, waiting, occupancy and rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.core.events import IterationDone, IterationLaunched, RequestArrived, RowRecord, SequenceFinished
from orca_jax.core.sequence import Phase
from orca_jax.observe import picture
from orca_jax.observe.labels import columns, one_line, printable
from orca_jax.observe.timeline import CODES, TimelineRecorder
from orca_jax.observe.timeline_text import BLOCKS, LETTERS, fold_of, folded, rates, render

INIT, CHUNK, INCR, WAIT = (CODES[p] for p in (Phase.INITIATION, Phase.CHUNK, Phase.INCREMENT, Phase.WAITING))
PHASES = {"I": Phase.INITIATION, "c": Phase.CHUNK, "-": Phase.INCREMENT}


def record(lanes: dict[str, str], seconds: float = 0.5) -> TimelineRecorder:
    """A run in which request `name` has the phases spelled by `lanes[name]`, a letter for each iteration."""
    recorder = TimelineRecorder()
    for name in lanes:
        recorder(RequestArrived(name, 0.0, prompt_len=5, max_tokens=9, n=1))
    for number, cells in enumerate(zip(*lanes.values(), strict=True)):
        named = list(zip(lanes, cells, strict=True))
        rows = tuple(RowRecord(name, 0, PHASES[cell], 0, 1) for name, cell in named if cell in PHASES)
        waiting = tuple((name, 0) for name, cell in named if cell == ".")
        recorder(IterationLaunched(number, number * seconds, rows, waiting, 0, 0, 1))
        recorder(IterationDone(number, (number + 1) * seconds, len(rows), len(rows)))
    for name, cells in lanes.items():
        recorder(SequenceFinished(name, 0, 0.0, "length", cells.count("-") + cells.count("I")))
    return recorder


def test_cells_rows_and_rates():
    timeline = record({"a": "I--  ", "b": ".cc--"}).timeline(max_rows=4)
    assert timeline.cells.tolist() == [[INIT, INCR, INCR, 0, 0], [WAIT, CHUNK, CHUNK, INCR, INCR]]
    assert timeline.rows.tolist() == [1, 2, 2, 1, 1]
    assert [lane.label for lane in timeline.lanes] == ["a", "b"]
    assert [lane.num_output for lane in timeline.lanes] == [3, 2]
    assert timeline.elapsed == 2.5
    assert timeline.mean_rows == pytest.approx(1.4)
    assert timeline.occupancy == pytest.approx(0.35)
    assert timeline.tokens_per_second == pytest.approx(7 / 2.5)
    assert timeline.seconds.tolist() == [0.5] * 5


def test_an_iteration_launched_ahead_counts_from_the_end_of_the_one_before():
    recorder = TimelineRecorder()
    row = (RowRecord("a", 0, Phase.INCREMENT, 0, 1),)
    recorder(IterationLaunched(0, 0.0, row, (), 0, 0, 1))
    recorder(IterationLaunched(1, 0.1, row, (), 0, 0, 1))
    recorder(IterationDone(0, 1.0, 1, 1))
    recorder(IterationDone(1, 1.5, 1, 0))
    recorder(IterationLaunched(2, 9.0, row, (), 0, 0, 1))
    recorder(IterationDone(2, 9.25, 1, 1))
    timeline = recorder.timeline()
    assert timeline.seconds.tolist() == [1.0, 0.5, 0.25]
    assert timeline.kept.tolist() == [1, 0, 1]


def test_sequences_of_one_request_have_lanes_of_their_own():
    recorder = TimelineRecorder()
    recorder(RequestArrived("r", 0.0, 3, 4, n=2))
    recorder.name("r", "a prompt")
    recorder(IterationLaunched(0, 0.0, (RowRecord("r", 1, Phase.INITIATION, 0, 3),), (("r", 0),), 0, 0, 1))
    timeline = recorder.timeline()
    assert [lane.label for lane in timeline.lanes] == ["[0] a prompt", "[1] a prompt"]
    assert timeline.cells.tolist() == [[WAIT], [INIT]]


def test_only_the_last_iterations_are_kept():
    recorder = TimelineRecorder(max_iterations=3)
    recorder(RequestArrived("r", 0.0, 3, 40, n=1))
    for number in range(10):
        recorder(IterationLaunched(number, float(number), (RowRecord("r", 0, Phase.INCREMENT, 0, 1),), (), 0, 0, 1))
        recorder(IterationDone(number, number + 1.0, 1, 1))
    assert recorder.timeline().elapsed == 3.0
    assert recorder.timeline().num_iterations == 3


def test_text_tells_the_phases_apart():
    lines = render(record({"first": "I--  ", "second": ".cc--"}).timeline(), 80, LETTERS).splitlines()
    assert lines[1] == " 0 first  I--"
    assert lines[2] == " 1 second .cc--"
    assert "I initiation   c chunk   - increment   . waiting" in lines[5]
    assert "5 iterations in 2.50 s: 1.4 of 2 rows filled (70%), 7 new tokens, 3 tokens/s" in lines[6]


def test_colour_changes_nothing_but_colour():
    timeline = record({"first": "I--  ", "second": ".cc--"}).timeline()
    plain, coloured = render(timeline, 80, BLOCKS), render(timeline, 80, BLOCKS, colour=True)
    assert "\x1b[" not in plain and "\x1b[1;31m" in coloured
    for code in (*BLOCKS.colours.values(), "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_nothing_ran():
    assert render(TimelineRecorder().timeline()) == "timeline: nothing ran"


def test_of_many_sequences_the_rest_are_counted():
    text = render(record({f"r{number}": "I" for number in range(9)}).timeline(), max_lanes=4)
    assert "... and 5 more sequences" in text and "r4" not in text


@given(st.integers(1, 5000), st.integers(20, 200))
def test_folding_fits_the_width(num_iterations, width):
    fold = fold_of(num_iterations, width)
    assert -(-num_iterations // fold) <= width
    assert int(str(fold).rstrip("0")) in (1, 2, 5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 7))
def test_folding_keeps_the_loudest(codes, fold):
    got = folded(np.array([codes], np.uint8), fold)[0].tolist()
    assert got == [max(codes[start : start + fold]) for start in range(0, len(codes), fold)]


@given(st.integers(1, 400), st.integers(60, 160))
def test_lines_stay_within_the_width(num_iterations, width):
    timeline = record({"a prompt that is rather long for its place": "I" + "-" * num_iterations}).timeline()
    charts = render(timeline, width).splitlines()[:-2]  # legend and totals are sentences
    assert max(columns(line) for line in charts) <= width


@given(st.text(max_size=60), st.integers(2, 30))
def test_labels_are_one_printable_line(text, width):
    label = one_line(text, width)
    assert columns(label) <= width
    assert label == printable(label) and len(label.splitlines()) <= 1


def test_escapes_are_made_visible():
    assert printable("a\x1b[2Jb\nc\t\x07\u202e") == "a\\x1b[2Jb\nc\t\\x07\\u202e"


def test_picture_shows_each_phase_in_its_colour(tmp_path):
    path = picture.save(record({"first": "I--  ", "second": ".cc--"}).timeline(), tmp_path / "out" / "timeline.png")
    with picture.Image.open(path) as image:
        assert image.format == "PNG"
        found = {colour for _, colour in image.convert("RGB").getcolors(2**16)}
    for colour in (*picture.COLOURS.values(), picture.RATE_COLOUR):
        assert tuple(bytes.fromhex(colour[1:])) in found


def test_picture_of_a_long_crowded_run_stays_small():
    timeline = record({f"r{number}": "I" + "-" * 300 for number in range(80)}).timeline()
    image = picture.draw(timeline, "long")
    assert image.width == 1600 and image.height < 2600


def test_picture_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(picture.OrcaError, match="cannot write the timeline to"):
        picture.save(record({"a": "I"}).timeline(), tmp_path / "file" / "t.png")


@given(st.floats(0.01, 1e6))
def test_axes_end_at_plain_numbers_just_above_the_highest(value):
    top = picture._round_up(value)
    assert value * 0.999 <= top <= value * 2.01


def test_rates_are_averaged_over_their_neighbours():
    timeline = record({"a": "I---", "b": "I---"}).timeline()
    timeline.seconds[:] = [1.0, 0.0, 1.0, 0.0]  # read two at a time
    assert rates(timeline, 1).tolist() == [2.0, 0.0, 2.0, 0.0]
    assert rates(timeline, 1, 2).tolist() == [4.0, 4.0, 4.0, 0.0]
    assert rates(timeline, 1, 8).tolist() == [4.0] * 4
    assert rates(timeline, 2).tolist() == [4.0, 4.0]
    assert rates(timeline, 4).tolist() == [4.0]
