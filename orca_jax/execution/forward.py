"""The model over a paged cache: the one place where attention learns about rows and pages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, Int
from pallas_kernels.ragged_paged_attention import prepare, ragged_paged_attention, write_kv

from orca_jax.execution.packing import RowTable
from orca_jax.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """`implementation` as the kernels name it; `uniform` makes a token's result independent of how rows are cut."""

    implementation: str
    page_size: int
    uniform: bool = False


def forward(
    model: Decoder,
    tokens: Int[Array, " T"],
    positions: Int[Array, " T"],
    cache: list[Array],
    rows: RowTable,
    options: AttentionOptions,
) -> tuple[Float[Array, "T D"], list[Array]]:
    """Normed hidden states of every token, and the cache with this iteration's keys and values in it.

    The layers are alike, so one jitted function serves all of them: it is traced and lowered once for each distinct
    attention window instead of once for each layer, and XLA inlines it.
    """
    metadata = prepare(
        rows.kv_lens, rows.page_table, rows.cu_q_lens, rows.num_rows, num_tokens=tokens.shape[0],
        page_size=options.page_size, uniform=options.uniform,
    )  # fmt: skip
    run = {w: layer_function(model, w, rows, options) for w in {model.config.window(i) for i in range(len(cache))}}
    x, turn = model.embed(tokens, positions)
    out = []
    for i, (layer, pages) in enumerate(zip(model.layers, cache, strict=True)):
        x, pages = run[model.config.window(i)](layer, x, turn, pages, metadata)
        out.append(pages)
    return model.norm(x), out


def layer_function(model: Decoder, window: int | None, rows: RowTable, options: AttentionOptions) -> Callable[..., Any]:
    """`(layer, x, turn, pages, metadata) -> (x, pages)`, jitted, for the layers with this window."""
    scale = model.config.head_dim**-0.5
    arguments = (rows.kv_lens, rows.page_table, rows.cu_q_lens, rows.num_rows)

    @jax.jit
    def run(layer: Any, x: Array, turn: Any, pages: Array, metadata: Any) -> tuple[Array, Array]:
        def attend(q: Array, k: Array, v: Array, pages: Array) -> tuple[Array, Array]:
            with jax.named_scope("kv_write"):
                pages = write_kv(pages, k, v, *arguments, metadata=metadata)
            with jax.named_scope("ragged_attention"):
                y = ragged_paged_attention(
                    q, pages, *arguments, sm_scale=scale, sliding_window=window,
                    implementation=options.implementation, metadata=metadata,
                )  # fmt: skip
            return y, pages

        return layer(x, turn, pages, attend)

    return run
