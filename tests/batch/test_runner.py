"""Whole runs over a double: order, errors, limits, resuming, and every way of stopping half-way."""

import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax.batch.append_file import AppendFile
from orca_jax.batch.job import Job
from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Order
from orca_jax.batch.runner import Limits, Runner
from orca_jax.batch.words import Answered, BatchError, Counts, Failed, Item, Prepared, Refused, Result
from orca_jax.core.clock import ManualClock
from tests.batch.doubles import EchoAnswerer, HandAnswerer, SmallDisk
from tests.batch.runs import line, records, run_batch

BAD = [
    line("a", "first"), "", line("b", "second"), '{"custom_id": "c"', line("a", "again"), "   ",
    line("d", "refuse me"), line("e", "NAN MAKER"), line("f", url="/v1/embeddings"), line("g", method="GET"),
    '{"x": NaN}', line("b"), line("h", "last"),
]  # fmt: skip


def ids(path) -> list[str]:
    return [record["custom_id"] for record in records(path)]


def test_answers_in_openai_s_format(make):
    paths = make(line("a", "abc"), line("é", "xyz"))
    counts = run_batch(paths, EchoAnswerer(scramble=True))
    assert (counts.total, counts.completed, counts.failed, counts.output_tokens) == (2, 2, 0, 6)
    assert records(paths.output)[1] == {
        "id": "batch_req_2", "custom_id": "é", "error": None,
        "response": {
            "status_code": 200, "request_id": "req_2",
            "body": {"url": "/v1/completions", "text": "zyx", "seed": None},
        },
    }  # fmt: skip
    names = {path.name for path in paths.output.parent.iterdir()}
    assert names == {"in.jsonl", "out.jsonl", "out.jsonl.state.json"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("in_order", [True, False])
def test_bad_lines_are_named_and_the_others_done(make, end, in_order):
    paths = make(*BAD, end=end)
    counts = run_batch(paths, EchoAnswerer(scramble=True), limits=Limits(4, 100, in_order))
    assert (counts.total, counts.completed, counts.failed) == (11, 3, 8)
    assert sorted(ids(paths.output)) == ["a", "b", "h"]
    found = {record["error"]["line"]: record for record in records(paths.errors)}
    codes = {number: record["error"]["code"] for number, record in found.items()}
    assert codes == {
        4: "invalid_json", 5: "duplicate_custom_id", 7: "invalid_request_error", 8: "server_error", 9: "unknown_url",
        10: "invalid_method", 11: "invalid_json", 12: "duplicate_custom_id",
    }  # fmt: skip
    for number, record in found.items():
        assert record["id"] == f"batch_req_{number}" and len(record["error"]["message"]) < 200
        if number != 8:
            assert record["error"]["message"].startswith(f"line {number}: ")
    assert "'a' is that of line 1 already" in found[5]["error"]["message"]
    assert found[7]["response"]["status_code"] == 400 and found[7]["error"]["param"] == "temperature"
    assert found[8]["response"]["status_code"] == 500 and found[9]["response"] is None
    assert [record["custom_id"] for record in found.values()].count(None) == 2


def test_a_surrogate_that_a_refusal_echoes_can_be_written(make):
    paths = make(line("a", url="\ud800"))
    run_batch(paths, EchoAnswerer())
    assert records(paths.errors)[0]["error"]["code"] == "unknown_url"


@given(
    bad=st.sets(st.integers(0, 29), max_size=8), inflight=st.integers(1, 7), window=st.integers(1, 12),
    seed=st.none() | st.integers(0, 5), shards=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=25)
def test_every_line_once_in_the_order_of_the_source(bad, inflight, window, seed, shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "in.jsonl").write_text("\n".join("{" if n in bad else line(f"id{n}") for n in range(30)))
    everything: list[int] = []
    for shard in range(shards):
        paths = Paths.named(folder / "in.jsonl", folder / f"out{shard}.jsonl")
        answerer = EchoAnswerer(scramble=True)
        run_batch(paths, answerer, limits=Limits(inflight, window), order=Order(seed, shard, shards), kind="openai")
        answered = [int(record["id"].split("_")[-1]) for record in records(paths.output)]
        assert answered == answerer.submitted and answerer.most_running <= inflight
        assert seed is not None or answered == sorted(answered)
        everything += answered + [record["error"]["line"] for record in records(paths.errors)]
    assert sorted(everything) == list(range(1, 31))
    assert run_batch(paths, answerer).completed == len(answered)  # there is nothing left to do


def test_a_seed_decides_the_order(make):
    paths = make(*[line(f"id{n}") for n in range(20)])
    orders = []
    for seed in (1, 1, 2):
        run_batch(paths, EchoAnswerer(), order=Order(seed), restart=True)
        orders.append(ids(paths.output))
    assert orders[0] == orders[1] != orders[2] and orders[0] != sorted(orders[0])


def test_a_slow_first_answer_holds_the_others_back_no_further_than_the_window():
    answerer, written = HandAnswerer(), []

    class Sink:
        def write(self, results):
            written.extend(result.number for result in results)

        def sync(self):
            pass

    source = iter([Prepared(n, f"id{n}", EchoAnswerer.prepare(answerer, _item(n))) for n in range(1, 21)])
    runner = Runner(source, answerer, Sink(), counts=Counts(), limits=Limits(inflight=3, window=5))
    thread = threading.Thread(target=runner.run)
    thread.start()
    slow = answerer.pending.get(timeout=10)
    for _ in range(4):  # 2 to 5 end; then five are taken and not written, and no sixth is asked for
        work, done = answerer.pending.get(timeout=10)
        done(work.body["prompt"])
    assert answerer.submitted == [1, 2, 3, 4, 5] and written == []
    slow[1]("late")
    for _ in range(15):
        work, done = answerer.pending.get(timeout=10)
        done(work.body["prompt"])
    thread.join(10)
    assert written == list(range(1, 21))


def _item(number):
    return Item(number, f"id{number}", "/v1/completions", {"prompt": str(number)})


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("stop_after", [1, 4, 7, 10])
def test_a_run_that_was_stopped_goes_on_where_it_was(make, in_order, stop_after):
    paths = make(*BAD)
    whole = Paths.named(paths.source, paths.output.with_name("whole.jsonl"))
    run_batch(whole, EchoAnswerer())
    limits = Limits(2, 100, in_order)

    def stop(runner, counts):
        if counts.completed + counts.failed >= stop_after:
            runner.stop()

    first = run_batch(paths, EchoAnswerer(delay=0.001), limits=limits, watch=stop)
    assert first.completed + first.failed >= stop_after
    # The last few may come together: then all is answered, and the run may or may not have seen that it was the end.
    assert not paths.output.exists() or first.completed + first.failed == 11
    before = first.completed + first.failed
    answerer = EchoAnswerer()
    counts = run_batch(paths, answerer, limits=limits)
    assert (counts.completed, counts.failed, counts.total) == (3, 8, 11)
    assert len(answerer.prepared) <= 11 - before  # what is done is not even read again
    for mine, theirs in ((paths.output, whole.output), (paths.errors, whole.errors)):
        assert sorted(mine.read_bytes().splitlines()) == sorted(theirs.read_bytes().splitlines())
        assert not in_order or mine.read_bytes() == theirs.read_bytes()


def test_every_cut_of_both_files_is_resumed(make):
    """What a crash of the machine may leave: any length of either file."""
    paths = make(*BAD[:8])
    run_batch(paths, EchoAnswerer())
    output, errors = paths.output.read_bytes(), paths.errors.read_bytes()
    state = json.loads(paths.state.read_text())
    cuts = [(cut, len(errors)) for cut in range(0, len(output) + 1, 13)]
    cuts += [(len(output), cut) for cut in range(0, len(errors) + 1, 17)] + [(7, 7), (300, 100)]
    for cut_output, cut_errors in cuts:
        paths.output.unlink()
        paths.errors.unlink()
        paths.partial_output.write_bytes(output[:cut_output])
        paths.partial_errors.write_bytes(errors[:cut_errors])
        paths.state.write_text(json.dumps(state | {"status": "running"}))
        counts = run_batch(paths, EchoAnswerer())
        assert (counts.completed, counts.failed) == (2, 4)
        for path, whole in ((paths.output, output), (paths.errors, errors)):
            assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_killed_between_the_renames_the_next_run_does_the_rest(make, renamed):
    paths = make(*BAD)
    run_batch(paths, EchoAnswerer())
    output = paths.output.read_bytes()
    if renamed < 2:
        paths.output.replace(paths.partial_output)
    if renamed < 1:
        paths.errors.replace(paths.partial_errors)
    counts = run_batch(paths, HandAnswerer())  # which would wait for ever
    assert (counts.completed, counts.failed) == (3, 8) and paths.output.read_bytes() == output
    assert len(records(paths.errors)) == 8 and not paths.partial_output.exists() and not paths.partial_errors.exists()


@pytest.mark.parametrize("full", ["output", "errors"])
def test_a_full_disk_is_named_and_the_run_resumes(make, monkeypatch, full):
    paths = make(*BAD)
    disks = {paths.partial_output: SmallDisk(), paths.partial_errors: SmallDisk()}
    small = disks[paths.partial_output if full == "output" else paths.partial_errors]
    small.capacity = 250
    monkeypatch.setattr(Job, "_locked", lambda self, path: AppendFile(disks[path], str(path)))
    monkeypatch.setattr(Job, "_settle", lambda self, state: None)
    with pytest.raises(BatchError, match=f"cannot write .*{'out' if full == 'output' else 'errors'}.jsonl.partial: No"):
        run_batch(paths, EchoAnswerer())
    assert all(disk.content == b"" or disk.content.endswith(b"\n") for disk in disks.values())
    small.capacity = 2**40
    counts = run_batch(paths, EchoAnswerer())
    assert (counts.completed, counts.failed) == (3, 8)
    written = [json.loads(text)["id"] for disk in disks.values() for text in bytes(disk.content).split(b"\n") if text]
    assert len(written) == len(set(written)) == 11 and all(disk.synced == len(disk.content) for disk in disks.values())


def test_an_engine_that_fails_ends_the_run_but_loses_nothing(make):
    paths = make(*[line(f"id{n}") for n in range(6)])
    with pytest.raises(BatchError, match=r"the engine failed: double \(the same command goes on from here"):
        run_batch(paths, EchoAnswerer(breaks_at=4), limits=Limits(2, 10))
    assert ids(paths.partial_output) == ["id0", "id1", "id2"] and not paths.output.exists()
    run_batch(paths, EchoAnswerer())
    assert ids(paths.output) == [f"id{n}" for n in range(6)]


def test_what_is_written_is_synced_within_a_second_and_at_the_end():
    clock, synced, written = ManualClock(), [], []

    class Sink:
        def write(self, results):
            written.append(len(results))
            clock.advance(0.4)

        def sync(self):
            synced.append(len(written))

    failures = (Refused(n, None, Failed("x", "y")) for n in range(1, 3))
    answerer = EchoAnswerer()
    work = [Prepared(n, str(n), _item(n)) for n in range(3, 9)]
    source = iter([*failures, *work])
    Runner(source, answerer, Sink(), counts=Counts(), limits=Limits(1, 10), clock=clock).run()
    assert len(synced) >= 3 and max(b - a for a, b in zip([0, *synced], synced, strict=False)) <= 4
    assert synced[-1] == len(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"seed": 1}}, "was made with seed = 0, but now it is 1"),
        ({"settings": {}}, "was made with seed = 0, but now it is None"),
        ({"input": "other"}, "was made with digest = "),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_or_another_input_are_refused_by_name(make, change, message, finished):
    paths = make(*[line(f"id{n}") for n in range(4)])
    watch = lambda runner, counts: None if finished else runner.stop()
    run_batch(paths, EchoAnswerer(delay=0.01), settings={"seed": 0}, limits=Limits(1, 1), watch=watch)
    if "input" in change:
        paths.source.write_text(line("other"))
    with pytest.raises(BatchError, match=message):
        run_batch(paths, EchoAnswerer(), settings=change.get("settings", {"seed": 0}))
    run_batch(paths, EchoAnswerer(), settings=change.get("settings", {"seed": 0}), restart=True)
    assert len(records(paths.output)) == (1 if "input" in change else 4)


def test_a_run_that_got_nowhere_binds_nobody(make):
    """A wrong --model is put right without --restart."""
    paths = make(line("a"))
    Job(paths, {"model": "wrng"}).close()
    assert run_batch(paths, EchoAnswerer(), settings={"model": "right"}).completed == 1
    assert json.loads(paths.state.read_text())["settings"]["model"] == "right"


def test_files_in_each_other_s_way_are_refused(make, tmp_path):
    paths = make(line("a"))
    source = paths.source
    (tmp_path / "soft").symlink_to(source)
    os.link(source, tmp_path / "hard.jsonl")
    (tmp_path / "foreign.jsonl").write_text("precious")
    (tmp_path / "torn.jsonl.partial").write_text("precious")
    cases = [
        (Paths.named(source, source), "is the input"),
        (Paths.named(source, tmp_path / "soft"), "is the input"),
        (Paths.named(source, tmp_path / "hard.jsonl"), "is the input"),
        (Paths.named(source, tmp_path / "x.jsonl", tmp_path / "hard.jsonl"), "is the input"),
        (Paths.named(source, tmp_path / "x.jsonl", tmp_path / "x.jsonl"), "in each other's way"),
        (Paths.named(source, tmp_path / "x.jsonl", tmp_path / "x.jsonl.partial"), "in each other's way"),
        (Paths.named(source, tmp_path / "no" / "x.jsonl"), "there is no folder"),
        (Paths.named(source, tmp_path), "is not an ordinary file"),
        (Paths.named(source, "/dev/null"), "is not an ordinary file"),
        (Paths.named(tmp_path, tmp_path / "x.jsonl"), "cannot read .*not an ordinary file"),
        (Paths.named(tmp_path / "none", tmp_path / "x.jsonl"), "cannot read .*No such file"),
        (Paths.named(source, tmp_path / "foreign.jsonl"), "exists, and is not the result of a batch"),
        (Paths.named(source, tmp_path / "torn.jsonl"), "exists, but .* is missing"),
    ]  # fmt: skip
    for case, message in cases:
        with pytest.raises(BatchError, match=message):
            Job(case, {})
    assert source.read_text() == line("a") + "\n" and (tmp_path / "foreign.jsonl").read_text() == "precious"


def test_two_processes_do_not_write_one_file(make):
    paths = make(line("a"))
    with Job(paths, {}), pytest.raises(BatchError, match="is being written by another process"):
        Job(paths, {})
    Job(paths, {}).close()
    other = Paths.named(paths.source, paths.output.with_name("other.jsonl"), paths.errors)
    with Job(paths, {}), pytest.raises(BatchError, match=r"out\.errors\.jsonl\.partial is being written"):
        Job(other, {})
    other.partial_output.unlink()
    Job(other, {}).close()


def test_the_batches_of_a_server_have_ids_of_their_own(make):
    paths = make(line("a"), "{")
    with Job(paths, {}, name="b_7") as job:
        job.write([Result(1, "a", Answered({})), Result(2, None, Failed("invalid_json", "no"))])
    (answer,) = records(paths.partial_output)
    assert (answer["id"], answer["response"]["request_id"]) == ("batch_req_b_7_1", "req_b_7_1")
    with Job(paths, {}, name="b_7") as job:
        assert job.done == {1, 2} and (job.counts.completed, job.counts.failed) == (1, 1)


def test_a_result_that_was_deleted_is_not_taken_for_done(make):
    paths = make(line("a"))
    run_batch(paths, EchoAnswerer())
    paths.output.unlink()
    with pytest.raises(BatchError, match="is missing"):
        run_batch(paths, EchoAnswerer())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 9, "status": "x", "settings": {}}'])
def test_a_damaged_state_is_named(make, text):
    paths = make(line("a"))
    paths.state.write_text(text)
    with pytest.raises(BatchError, match=r"out\.jsonl\.state\.json .*restart begins anew"):
        run_batch(paths, EchoAnswerer())
    run_batch(paths, EchoAnswerer(), restart=True)
    assert ids(paths.output) == ["a"]


def test_an_input_that_shrinks_under_way_ends_the_run_and_is_no_longer_the_same(make):
    paths = make(*[line(f"id{n}") for n in range(200)])
    shrink = lambda runner, counts: paths.source.write_text(line("id0") + "\n")
    with pytest.raises(BatchError, match=r"in\.jsonl was changed while it was read"):
        run_batch(paths, EchoAnswerer(delay=0.001), limits=Limits(2, 4), watch=shrink)
    assert not paths.output.exists() and ids(paths.partial_output)[0] == "id0"
    with pytest.raises(BatchError, match="was made with digest = "):
        run_batch(paths, EchoAnswerer())


def test_a_lost_line_would_not_go_unnoticed(make):
    paths = make(line("a"), line("b"))
    with Job(paths, {}) as job, pytest.raises(BatchError, match="has 1 of 2 lines"):
        job.finish(Counts(total=2, completed=1))


def test_an_empty_input_has_an_empty_answer(make):
    paths = make("", "")
    assert run_batch(paths, EchoAnswerer()).total == 0 and paths.output.read_bytes() == b""


def test_results_are_whole_lines_whatever_they_hold(make):
    paths = make(line("a"))
    nasty = "\n\r\x0b\x1c\x85\u2028\u2029\x00é☃"
    with Job(paths, {}) as job:
        job.write([Result(1, nasty, Answered({"text": nasty})), Result(2, None, Failed("c", nasty + "\ud800"))])
    (answer,), (error,) = records(paths.partial_output), records(paths.partial_errors)  # split as Python splits text
    assert answer["custom_id"] == answer["response"]["body"]["text"] == nasty
    assert error["error"]["message"] == nasty + "\ud800"
    assert "é☃".encode() in paths.partial_output.read_bytes()


def test_empty_files_of_a_late_comer_do_not_replace_what_is_complete(make):
    """Another process that opens the partial files just after they were renamed makes new ones."""
    paths = make(*BAD)
    run_batch(paths, EchoAnswerer())
    output, errors = paths.output.read_bytes(), paths.errors.read_bytes()
    for name in ("partial_output", "partial_errors"):
        getattr(paths, name).touch()
        assert run_batch(paths, HandAnswerer()).completed == 3
        assert (paths.output.read_bytes(), paths.errors.read_bytes()) == (output, errors)
        assert not getattr(paths, name).exists()
    paths.errors.unlink()
    with pytest.raises(BatchError, match=r"out\.errors\.jsonl was complete, but is missing"):
        run_batch(paths, HandAnswerer())
