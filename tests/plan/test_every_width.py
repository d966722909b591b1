"""Two layers of every width compile for all hardware, on one device and over eight, and what came of it is as it should be.

Nothing here has memory: weights and cache are shapes, the devices are described.
"""

import itertools
from collections import Counter

import pytest

from orca_jax.plan.program_text import Instruction
from orca_jax.plan.report import StepReport
from tests.plan.conftest import Cell

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "gpt-13b", "gpt-175b")
HARDWARE = ("v5e", "v6e", "tpu7x", "h200", "b200")
LAYERS = 2
CELLS = [Cell(*place) for place in itertools.product(MODELS, HARDWARE, (1, 8))]
SCANNED = [Cell("gpt-13b", "v5e", 1, layers="scan"), Cell("llama-3.1-8b", "h200", 8, layers="scan")]
each_cell = pytest.mark.parametrize("cell", CELLS + SCANNED, ids=str)

VIEWS = {"parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional"}
"""Opcodes whose result is where their operands are."""

IN_PLACE = {"scatter", "dynamic-update-slice", "fusion"}  # a fusion is followed into its own instructions


def layers_in_text(cell: Cell) -> int:
    return 1 if cell.layers == "scan" else LAYERS


def one_array_of_cache(cell: Cell, result: StepReport) -> int:
    """Bytes of a cache array on one device: a layer's pages, or all of them where layers are scanned."""
    return result.cache_bytes // layers_in_text(cell)


def copies_of_cache(cell: Cell, result: StepReport) -> list[Instruction]:
    size = one_array_of_cache(cell, result)
    return [each for each in result.text.walk() if each.bytes >= size and each.opcode not in VIEWS | IN_PLACE]


@each_cell
def test_it_fits_and_the_cache_is_updated_in_place(cell: Cell, result: StepReport):
    assert result.fits
    spec = cell.spec()
    assert result.aliased_bytes >= result.cache_bytes
    assert result.text.aliased() == layers_in_text(cell) + 1  # and the token table
    assert result.argument_bytes >= result.cache_bytes + result.parameter_bytes
    assert abs(result.cache_bytes - cell.cache) < 2 * cell.cache * cell.num_devices // spec.num_pages


@each_cell
def test_nothing_is_as_large_as_the_cache(cell: Cell, result: StepReport):
    copies = copies_of_cache(cell, result)
    assert [each.line for each in copies] == []
    assert result.temporary_bytes < one_array_of_cache(cell, result) // 8


@each_cell
def test_one_product_for_each_weight(cell: Cell, result: StepReport):
    """Out of attention's own products there are q, k and v, out, up, down in each layer, and the head."""
    found = Counter(
        each.scope.split("/")[-2] for each in result.text.products() if "ragged_paged_attention" not in each.scope
    )
    assert found == {"attention": 2 * layers_in_text(cell), "mlp": 2 * layers_in_text(cell), "head": 1}


@each_cell
def test_two_all_reduces_in_a_layer_and_one_for_the_embedding(cell: Cell, result: StepReport):
    if cell.num_devices == 1:
        assert result.collectives == ()
        return
    model = [each for each in result.collectives if "/sample/" not in each.scope]
    assert Counter(each.kind for each in model) == {"all-reduce": 2 * layers_in_text(cell) + 1}
    assert all(each.branches == 0 for each in model)
    in_layers = Counter(each.scope.split("/")[-2] for each in model if "dot_general" in each.scope)
    assert in_layers == {"attention": layers_in_text(cell), "mlp": layers_in_text(cell)}


@each_cell
def test_logits_stay_where_they_are(cell: Cell, result: StepReport):
    """No device ever holds more logits than its share: the sampler reduces over the split vocabulary."""
    spec = cell.spec()
    logits = spec.bucket.rows * spec.config.vocab_size * 4
    largest = max((each.bytes for each in result.collectives if "/sample/" in each.scope), default=0)
    assert largest <= logits / cell.num_devices


@each_cell
def test_no_weight_is_copied(cell: Cell, result: StepReport):
    """No temporary has room for the smallest of a layer's products' weights."""
    config = cell.spec().config
    smallest = config.hidden_size * config.num_heads * config.head_dim * 2 // cell.num_devices
    assert result.temporary_bytes < smallest
