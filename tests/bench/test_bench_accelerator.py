"""The accelerator's benchmarks run here too, on shapes of nothing: what they would time is what the engine runs."""

import argparse
import time

import jax.numpy as jnp
import numpy as np
import pytest

from orca_jax.bench import decode, kernels, rivals
from orca_jax.bench.ceilings import LONG_ENOUGH, Ceilings, median_seconds
from orca_jax.models.load import LoadedModel
from pallas_kernels.ragged_paged_attention import Heads


def test_a_fraction_is_that_of_the_nearer_ceiling():
    ceilings = Ceilings(bytes_per_second=100.0, flops_per_second=1000.0)
    assert ceilings.fraction(50.0, 10.0, 1.0) == 0.5
    assert ceilings.fraction(5.0, 800.0, 1.0) == 0.8


def test_the_median_counts_no_warm_up():
    calls = []
    slow = lambda name: (calls.append(name), time.sleep(2 * LONG_ENOUGH))[0]
    assert median_seconds([lambda: slow("a"), lambda: slow("b")], 3) >= 2 * LONG_ENOUGH
    assert calls == ["a", "b"] * 2 + ["a", "b", "a"]
    calls.clear()
    median_seconds([lambda: calls.append("a")], 1)
    assert len(calls) > 100  # a lot of short calls fills the time between two looks at the clock


def test_work_is_counted_by_rows_and_causality():
    heads = Heads(4, 2, 8)
    one = kernels.Shape("", ((1, 10),))
    assert one.num_bytes(heads) == 2 * 8 * (2 * 2 * 10 + 2 * 4)
    assert one.flops(heads) == 4 * 4 * 8 * 10
    assert kernels.Shape("", ((3, 3),)).flops(heads) == 4 * 4 * 8 * (1 + 2 + 3)


def test_kernels_are_checked_timed_and_shown():
    parser = argparse.ArgumentParser()
    kernels.add_arguments(parser)
    flags = "--small --heads 4 --kv-heads 2 --head-dim 64 --page-size 16 --layers 1 --repeats 1 --sets 1"
    found = list(kernels.rows(parser.parse_args(flags.split())))
    assert found[1]["right"] and found[1]["implementation"] == "xla"
    assert [row["shape"] for row in found[2:]] == [shape.name for shape in kernels.SMALL]
    assert all(row["us"] > 0 and row["fraction"] > 0 for row in found[2:])
    assert len(kernels.table(found).splitlines()) == 4 + len(found) - 1


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "error_of", lambda *args, **how: 1.0)
    parser = argparse.ArgumentParser()
    kernels.add_arguments(parser)
    found = list(kernels.rows(parser.parse_args(["--small"])))
    assert len(found) == 2 and "WRONG" in kernels.table(found)


def test_a_decode_loop_is_measured_with_and_without_the_host(loaded: LoadedModel):
    parser = argparse.ArgumentParser()
    decode.add_arguments(parser)
    args = parser.parse_args(["--context", "20", "--page-size", "4", "--repeats", "1", "--steps", "6"])
    row = decode.measure(loaded, 4, args, Ceilings(1e9, 1e9), "xla")
    assert row["compiles_after_warm_up"] == 0
    assert row["step_ms"] > 0 and row["loop_ms"] > 0 and row["fraction"] > 0
    c = loaded.config
    cache = 4 * (20 + 3) * 2 * c.num_layers * c.num_kv_heads * c.head_dim * 4
    assert row["bytes"] == cache + 4 * decode.count_parameters(loaded.model)  # embedding and head are one
    assert row["flops"] > 2 * 4 * decode.count_parameters(loaded.model)
    shown = {"model": "tiny", "device": "cpu", "bytes_per_second": 1e9, "flops_per_second": 1e9, **row}
    assert len(decode.table([shown]).splitlines()) == 5


def test_rivals_are_left_out_where_there_is_no_gpu():
    rows, heads = ((64, 64),) * 2, Heads(4, 2, 64)
    assert rivals.time_cudnn(rows, heads, jnp.bfloat16, 1) is None
    assert rivals.time_flashinfer(rows, heads, 16, np.zeros((2, 4), np.int32), 8, 1) is None
