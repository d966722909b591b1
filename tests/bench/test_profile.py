"""A profile's operations are told apart by the scopes they came from."""

import pytest

from orca_jax.bench.profile import by_part, instructions, table
from orca_jax.core.errors import EngineError

PROGRAM = """
%body (p: f32[2]) -> f32[2] {
  %dot.7 = f32[16,3]{1,0} dot(%a, %b), lhs_batch_dims={0}
  ROOT %gather.1 = f32[2]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(step)/attention/ragged_paged_attention/gather"}
}
ENTRY %main {
  %ynn_fusion.1 = f32[16,3072]{1,0} fusion(%x, %w), kind=kCustom, metadata={op_name="jit(step)/jit(run)/mlp/dot_general"}
  %mul.2 = f32[16]{0} fusion(%x), kind=kLoop, metadata={op_name="jit(step)/jit(run)/mlp/mul"}
  %while.3 = (s32[], f32[2]{0}) while(%t), body=%body, metadata={op_name="jit(step)/attention/ragged_paged_attention/while"}
  %max.4 = s32[16]{0} fusion(%l), kind=kLoop, metadata={op_name="jit(step)/sample/cond/reduce_max"}
  ROOT %copy.5 = f32[2]{0} copy(%y)
}
"""


def test_every_operation_has_its_part_and_loops_are_not_counted_twice():
    known = instructions(PROGRAM)
    assert {"dot.7", "ynn_fusion.1", "while.3", "copy.5"} <= set(known)
    events = [("ynn_fusion.1", 4.0), ("while.3", 9.0), ("dot.7", 2.0), ("gather.1", 1.0), ("gather.1", 1.0),
              ("mul.2", 0.5), ("max.4", 0.5), ("copy.5", 0.25), ("ThreadpoolListener::Record", 99.0)]  # fmt: skip
    found = {row["part"]: (row["ms"], row["operations"]) for row in by_part(iter(events), known, rounds=1)}
    assert found == {
        "mlp, products": (4.0, 1), "ragged_paged_attention": (4.0, 3), "mlp, between products": (0.5, 1),
        "sample": (0.5, 1), "layer, between products": (0.25, 1),
    }  # fmt: skip
    rows = [{"part": part, "ms": ms, "operations": count} for part, (ms, count) in found.items()]
    assert "| mlp, products | 4.00 | 43% | 1 |" in table([*rows, {"part": "clock", "ms": 9.0, "operations": 1}])


def test_an_empty_trace_is_an_error():
    with pytest.raises(EngineError, match="recorded no operation"):
        by_part(iter([("noise", 1.0)]), instructions(PROGRAM), rounds=1)
