"""Two layers of every width compile for all hardware, on one device and over eight, and what came of it is as it should be.

Nothing here has memory: weights and cache are shapes, the devices are described.
"""

import itertools
from collections import Counter
from dataclasses import replace

import jax
import pytest

from orca_jax.plan import hardware
from orca_jax.plan.program_text import Instruction
from orca_jax.plan.report import StepReport
from tests.plan.conftest import Cell

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "gpt-13b", "gpt-175b")
HARDWARE = ("v5e", "v6e", "tpu7x", "h200", "b200")
LAYERS = 2
SAMPLING = [Cell(MODELS[0], *place) for place in itertools.product(HARDWARE, (1, 8))]
"""A step with the whole sampler, which knows of a model no more than its vocabulary, once for each target."""
OTHERS = [Cell(*place) for place in itertools.product(MODELS[1:], HARDWARE, (1, 8))]
OTHERS += [Cell(MODELS[0], "v6e", 8, layers="unrolled"), Cell(MODELS[0], "h200", 8, layers="scan")]
GREEDY = [replace(cell, greedy=True) for cell in OTHERS]
IN_FULL = [pytest.param(cell, marks=pytest.mark.full) for cell in OTHERS]
each_cell = pytest.mark.parametrize("cell", SAMPLING + GREEDY + IN_FULL, ids=str)

VIEWS = {"parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional"}
"""Opcodes whose result is where their operands are."""

IN_PLACE = {"scatter", "dynamic-update-slice", "fusion", "custom-call"}
"""Opcodes that may write into an operand; a fusion is followed into its own instructions."""


def layers_in_text(result: StepReport) -> int:
    return 1 if result.layers == "scan" else LAYERS


def one_array_of_cache(result: StepReport) -> int:
    """Bytes of a cache array on one device: a layer's pages, or all of them where layers are scanned."""
    return result.cache_bytes // layers_in_text(result)


@each_cell
def test_the_hardware_s_own_kernels_run(cell: Cell, result: StepReport):
    platform = hardware.HARDWARE[cell.hardware].platform
    own = {"tpu": "mosaic_tpu", "cuda": "xla" if cell.hardware == "b200" else "mosaic_gpu"}
    assert result.implementation == own[platform]


@each_cell
def test_it_fits_and_the_cache_is_donated(cell: Cell, result: StepReport):
    assert result.fits
    assert result.aliased_bytes >= result.cache_bytes
    assert result.text.aliased() == layers_in_text(result) + 1  # and the token table
    assert result.argument_bytes >= result.cache_bytes + result.parameter_bytes
    assert 0.95 * cell.cache < result.cache_bytes <= cell.cache


@each_cell
def test_nothing_is_as_large_as_the_cache(cell: Cell, result: StepReport):
    size = one_array_of_cache(result)
    found = [each for each in result.text.instructions if each.bytes >= size and each.opcode not in VIEWS | IN_PLACE]
    assert [str(each) for each in found] == []
    assert result.temporary_bytes < size // 8


@each_cell
def test_one_product_for_each_weight(cell: Cell, result: StepReport):
    """Out of attention's own products there are q, k and v, out, up, down in each layer, and the head."""
    found = Counter(
        each.scope.split("/")[-2] for each in result.text.products() if "ragged_paged_attention" not in each.scope
    )
    assert found == {"attention": 2 * layers_in_text(result), "mlp": 2 * layers_in_text(result), "head": 1}


@each_cell
def test_two_all_reduces_in_a_layer_and_one_for_the_embedding(cell: Cell, result: StepReport):
    if cell.num_devices == 1:
        assert result.collectives == ()
        return
    model = [each for each in result.collectives if "/sample/" not in each.scope]
    assert Counter(each.kind for each in model) == {"all-reduce": 2 * layers_in_text(result) + 1}
    assert all(each.branches == 0 for each in model)
    in_layers = Counter(each.scope.split("/")[-2] for each in model if "dot_general" in each.scope)
    assert in_layers == {"attention": layers_in_text(result), "mlp": layers_in_text(result)}


@pytest.mark.parametrize("cell", SAMPLING + IN_FULL, ids=str)
def test_logits_stay_where_they_are(cell: Cell, result: StepReport):
    """The sampler reduces over the split vocabulary: no device receives more logits than its share has. But for the branch
    of log-probabilities tpu7x's compiler turns a split by vocabulary into one by rows, or gathers where rows are few.
    """
    spec = cell.spec()
    share = spec.bucket.rows * spec.config.vocab_size * 4 // cell.num_devices
    large = [each for each in result.collectives if "/sample/" in each.scope and each.bytes > share]
    assert [each for each in large if each.branches < 2] == []
    assert large == [] or cell.hardware == "tpu7x"
    assert len(large) <= 1


@each_cell
def test_no_weight_is_copied_or_gathered(cell: Cell, result: StepReport):
    """But TPUs fetch weights into their fast memory, "S(1)", ahead of the product."""
    if cell.hardware == "tpu7x" and jax.__version_info__ < (0, 11):
        pytest.skip("libtpu 0.0.42, which is JAX 0.10's, lays weights out anew on tpu7x")
    config = cell.spec().config
    smallest = config.hidden_size * config.num_heads * config.head_dim * 2 // cell.num_devices
    copying = {"copy", "copy-start", "transpose", "all-gather", "all-to-all"}
    if result.layers == "unrolled":
        copying.add("dynamic-slice")
    found = [each for each in result.text.instructions if each.opcode in copying and each.bytes >= smallest]
    weights = [each for each in found if "S(1)" not in each.shape and each.shape.lstrip("(").startswith("bf16")]
    assert [str(each) for each in weights if not is_pages(each, result)] == []


def is_pages(each: Instruction, result: StepReport) -> bool:
    """Of those, `test_nothing_is_as_large_as_the_cache` speaks."""
    whole = each.bytes == one_array_of_cache(result)
    return whole or "ragged_paged_attention" in each.scope or "write_kv" in each.scope
