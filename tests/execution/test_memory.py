"""The size of the K/V pool from numbers that are given: nothing here depends on how much memory this machine has.

A page's own size is what the implementation makes of it."""

import pytest

from orca_jax.core.errors import ConfigError
from orca_jax.execution import memory
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.forward import AttentionOptions
from orca_jax.execution.local import LocalExecutor
from orca_jax.execution.memory import check_room, free_in_container, pool_size
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.outline import page_bytes
from orca_jax.models.config import DecoderConfig
from orca_jax.models.dummy import fill_randomly
from orca_jax.models.load import abstract_model
from pallas_kernels.ragged_paged_attention import pages_dtype

CONFIG = DecoderConfig(
    family="llama", vocab_size=64, hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=32, max_position_embeddings=64,
)  # fmt: skip
PAGE = 3 * 4 * 2 * 2 * 8 * 2  # layers, tokens, keys and values, heads, width, bytes of bfloat16
WIDTHS = {"xla": 8, "mosaic_tpu": 128, "mosaic_gpu": 64}  # what each makes of a head's 8 elements


def size_of(monkeypatch, free, **settings):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: free)
    usual = {"max_num_seqs": 5, "max_model_len": 30, "asked_bytes": None, "gpu_memory_utilization": 0.9}
    return pool_size(PAGE, page_size=4, **{**usual, **settings})


def test_the_default_is_what_all_sequences_need(monkeypatch):
    pool = size_of(monkeypatch, 10**9)
    assert (pool.num_pages, pool.page_bytes, pool.bytes) == (5 * 8, PAGE, 40 * PAGE)
    assert pool.reason == "5 sequences of 30 tokens"


@pytest.mark.parametrize("weights", [0, 700])
def test_on_cpu_it_takes_at_most_two_fifths_of_what_the_weights_leave(monkeypatch, weights):
    pool = size_of(monkeypatch, 50 * PAGE + weights, bytes_to_come=weights)
    assert pool.num_pages == 20 and pool.reason == "40% of the free host memory allow no more"


def test_less_than_one_sequence_is_refused_with_the_numbers(monkeypatch):
    with pytest.raises(ConfigError, match=rf"hold 7 pages of 4 .* needs 8, {8 * PAGE} bytes \(lower --max-model-len"):
        size_of(monkeypatch, 10**9, asked_bytes=8 * PAGE - 1)
    assert size_of(monkeypatch, 10**9, asked_bytes=8 * PAGE).num_pages == 8


def test_memory_that_is_not_there_is_refused_before_it_is_touched(monkeypatch):
    with pytest.raises(ConfigError, match=r"kv_cache_memory_bytes = 9000, but .* only 8999 bytes free of 9000 needed"):
        size_of(monkeypatch, 8999, asked_bytes=9000)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 99)
    check_room(99, "the weights", "a smaller model")
    with pytest.raises(ConfigError, match=r"the weights, but .* 99 bytes free of 100 needed \(a smaller model\)"):
        check_room(100, "the weights", "a smaller model")


def test_a_container_s_file_cache_counts_as_free(tmp_path):
    assert free_in_container(tmp_path, 7) == 7
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\nactive_file 200\ninactive_file 350\n")
    assert free_in_container(tmp_path, 7) == 650
    (tmp_path / "memory.max").write_text("max\n")
    assert free_in_container(tmp_path, 7) == 7


@pytest.mark.parametrize("layers", ["unrolled", "scan"])
@pytest.mark.parametrize("name", WIDTHS)
def test_a_page_takes_what_the_implementation_makes_of_it(name, layers):
    """A pool of n pages is n times that, to the byte: an executor allocates it, padding included."""
    attention, kv_dtype = AttentionOptions(name, 16, interpret=True, layers=layers), pages_dtype(name, "float16")
    page = page_bytes(CONFIG, attention, kv_dtype)
    assert page == 3 * 16 * 2 * 2 * WIDTHS[name] * kv_dtype.itemsize
    model = fill_randomly(abstract_model(CONFIG, "float16", layers), "float16", 0, lambda *_: None)
    executor = LocalExecutor(model, ExecutorOptions((Bucket(4, 4),), 4, 7, 32, attention, kv_dtype))
    assert executor.statistics()["kv_cache_bytes"] == 7 * page
    executor.close()


def test_pages_that_an_implementation_cannot_have_are_refused():
    with pytest.raises(
        ConfigError, match=r"attention 'mosaic_gpu' cannot serve this: page_size = 4 is no multiple of 8"
    ):
        page_bytes(CONFIG, AttentionOptions("mosaic_gpu", 4), "bfloat16")
