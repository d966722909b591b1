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
    windows = {model.config.window(i) for i in range(len(cache))}
    run = {window: layer_function(model, window, rows, tokens.shape[0], options) for window in windows}
    x, turn = model.embed(tokens, positions)
    out = []
    for i, (layer, pages) in enumerate(zip(model.layers, cache, strict=True)):
        x, pages = run[model.config.window(i)](layer, x, turn, pages)
        out.append(pages)
    return model.norm(x), out


def layer_function(
    model: Decoder, window: int | None, rows: RowTable, num_tokens: int, options: AttentionOptions
) -> Callable[..., tuple[Array, Array]]:
    """`(layer, x, turn, pages) -> (x, pages)` for the layers with this window, what they share worked out once."""
    scale = model.config.head_dim**-0.5
    table = (rows.kv_lens, rows.page_table, rows.cu_q_lens, rows.num_rows)
    metadata = prepare(
        *table, num_tokens=num_tokens, page_size=options.page_size, sliding_window=window, uniform=options.uniform,
        implementation=options.implementation,
    )  # fmt: skip

    @jax.jit
    def run(layer: Any, x: Array, turn: Any, pages: Array, table: Any, metadata: Any) -> tuple[Array, Array]:
        def attend(q: Array, k: Array, v: Array, pages: Array) -> tuple[Array, Array]:
            pages = write_kv(pages, k, v, *table, implementation=options.implementation, metadata=metadata)
            y = ragged_paged_attention(
                q, pages, *table, sm_scale=scale, sliding_window=window, uniform=options.uniform,
                implementation=options.implementation, metadata=metadata,
            )  # fmt: skip
            return y, pages

        return layer(x, turn, pages, attend)

    return lambda layer, x, turn, pages: run(layer, x, turn, pages, table, metadata)
