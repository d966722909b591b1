"""The model over a paged cache: the one place where attention learns about rows and pages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from orca_jax.execution.packing import RowTable
from orca_jax.models.decoder import Decoder
from orca_jax.models.scan import LayerForm, scan_layers
from orca_jax.models.sharding import heads_spec
from pallas_kernels.ragged_paged_attention import (
    Heads,
    Metadata,
    heads_axis,
    prepare,
    ragged_paged_attention,
    write_kv,
)


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """How attention runs. `implementation` as the kernels name it; `page_size` in tokens.

    `uniform` makes a token's result independent of how rows are cut and batched. `layers` is the form of the model's
    layers; it decides the cache's form too: an array for each layer, or one array with all layers' pages in a row.
    `interpret` runs an accelerator's kernels where there is none. `mesh` has the devices that share the K/V heads, described
    ones included; None means that one device has them all.
    """

    implementation: str
    page_size: int
    uniform: bool = False
    interpret: bool = False
    layers: LayerForm = "unrolled"
    mesh: Mesh | None = None


def forward(
    model: Decoder,
    tokens: Int[Array, " T"],
    positions: Int[Array, " T"],
    cache: list[Array],
    rows: RowTable,
    options: AttentionOptions,
) -> tuple[Float[Array, "T D"], list[Array]]:
    """Normed hidden states of every token, and the cache with this iteration's keys and values in it."""
    windows = {model.config.window(i) for i in range(model.config.num_layers)}
    shared = (rows, tokens.shape[0], cache[0].dtype, options)
    attention = {window: RowAttention(model, window, *shared) for window in windows}
    if options.layers == "scan":
        return scanned(model, tokens, positions, cache, attention[windows.pop()])
    run = {window: layer_function(attend) for window, attend in attention.items()}
    x, turn = model.embed(tokens, positions)
    out = []
    for i, (layer, pages) in enumerate(zip(model.layers, cache, strict=True)):
        x, pages = run[model.config.window(i)](layer, x, turn, pages)
        out.append(pages)
    return model.norm(x), out


class RowAttention:
    """Attention of one iteration's rows for the layers with one window; what these share is worked out once."""

    def __init__(
        self,
        model: Decoder,
        window: int | None,
        rows: RowTable,
        num_tokens: int,
        kv_dtype: Any,
        options: AttentionOptions,
    ):
        self.table = (rows.kv_lens, rows.page_table, rows.cu_q_lens, rows.num_rows)
        c = model.config
        self.options, self.window, self.scale = options, window, c.head_dim**-0.5
        share = 1 if options.mesh is None else options.mesh.size
        self.metadata = prepare(
            *self.table, num_tokens=num_tokens, page_size=options.page_size, sliding_window=window,
            heads=Heads(c.num_heads // share, c.num_kv_heads // share, c.head_dim), uniform=options.uniform,
            dtype=kv_dtype, implementation=options.implementation, interpret=options.interpret,
        )  # fmt: skip

    def __call__(
        self, q: Array, k: Array, v: Array, pages: Array, table: tuple[Array, ...], metadata: Metadata
    ) -> tuple[Array, Array]:
        """Write this layer's keys and values, then attend. `table` and `metadata` are this object's own, or moved."""
        options = self.options
        if options.mesh is None:
            return self.attend(q, k, v, pages, table, metadata)
        heads, paged = heads_spec(1), heads_spec(heads_axis(options.implementation))
        each = jax.shard_map(
            self.attend, mesh=options.mesh, in_specs=(heads, heads, heads, paged, P(), P()), out_specs=(heads, paged),
            check_vma=False,  # kernels do not say what their results depend on
        )  # fmt: skip
        return each(q, k, v, pages, table, metadata)

    def attend(
        self, q: Array, k: Array, v: Array, pages: Array, table: tuple[Array, ...], metadata: Metadata
    ) -> tuple[Array, Array]:
        """One device's heads: all of them, or over a mesh its share."""
        options = self.options
        how: dict[str, Any] = {
            "implementation": options.implementation, "interpret": options.interpret, "metadata": metadata,
        }  # fmt: skip
        pages = write_kv(pages, k, v, *table, **how)
        y = ragged_paged_attention(
            q, pages, *table, sm_scale=self.scale, sliding_window=self.window, uniform=options.uniform, **how
        )
        return y, pages


def layer_function(attention: RowAttention) -> Callable[..., tuple[Array, Array]]:
    """`(layer, x, turn, pages) -> (x, pages)`.

    The layers are alike, so one jitted function serves all of them: it is traced and lowered once instead of once for
    each layer, and XLA inlines it.
    """

    @jax.jit
    def run(layer: Any, x: Array, turn: Any, pages: Array, table: Any, metadata: Metadata) -> tuple[Array, Array]:
        return layer(x, turn, pages, lambda q, k, v, pages: attention(q, k, v, pages, table, metadata))

    return lambda layer, x, turn, pages: run(layer, x, turn, pages, attention.table, attention.metadata)


def scanned(
    model: Decoder, tokens: Array, positions: Array, cache: list[Array], attention: RowAttention
) -> tuple[Float[Array, "T D"], list[Array]]:
    """All layers by `lax.scan`: layer l's pages are those of the row table, moved l layers' worth down the cache."""
    per_layer = cache[0].shape[0] // model.config.num_layers
    kv_lens, page_table, *rest = attention.table

    def attend(q: Array, k: Array, v: Array, pages: Array, layer: Array) -> tuple[Array, Array]:
        table = (kv_lens, page_table + layer * per_layer, *rest)
        return attention(q, k, v, pages, table, attention.metadata.offset_pages(layer * per_layer))

    x, pages = scan_layers(model, tokens, positions, cache[0], attend)
    return x, [pages]
