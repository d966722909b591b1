"""The step: one iteration of the whole model, for any mixture of rows (the paper's selective batching, section 3.2).

    step(parameters, cache, history, constraints, packed) -> (cache, history, output)

Embedding, products, norms and the head run on one flat `[T, D]`, whatever phases are in it; only attention is told which
token belongs to which row. The cache and the token table are donated and come back updated in place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from orca_jax.core.sampling_params import MAX_LOGPROBS
from orca_jax.execution.buckets import Bucket
from orca_jax.execution.constraints import Constraints
from orca_jax.execution.forward import AttentionOptions, forward
from orca_jax.execution.packing import ON_DEVICE, Column, RowTable, token_rows, unpack
from orca_jax.execution.sampler import Sampled, Sampler, sample
from orca_jax.models.decoder import Decoder
from orca_jax.models.sharding import split_by_vocabulary

OUTPUT_WIDTH = 3 + 2 * MAX_LOGPROBS


class StepOutput(NamedTuple):
    """`packed`: token, log-probability's bits, rank, likeliest tokens, their log-probabilities' bits. `hidden`: the
    normed final states, read by the host only when a request wants the log-probabilities of its prompt.
    """

    packed: Int[Array, "R OUTPUT_WIDTH"]
    hidden: Float[Array, "T D"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a compiled step is made for, beside the model: the bucket, the page table's width P, how attention runs."""

    bucket: Bucket
    pages_per_row: int
    attention: AttentionOptions


def make_step(
    graph: nnx.GraphDef, treedef: Any, shape: StepShape, sampler: Sampler = sample
) -> Callable[..., tuple[list[Array], Array, StepOutput]]:
    """The step function for one bucket, ready to be jitted with `donate_argnums=(1, 2)`.

    Parameters arrive as the flat tuple that `treedef` describes: flattened once, not at every iteration.
    """

    def step(
        parameters: tuple[Array, ...],
        cache: list[Array],
        history: Int[Array, "slots N"],
        constraints: Constraints,
        packed: Int[Array, " n"],
    ) -> tuple[list[Array], Array, StepOutput]:
        model = nnx.merge(graph, jax.tree.unflatten(treedef, parameters))
        rows = unpack(packed, shape.bucket, shape.pages_per_row)
        cache, history, hidden, logits = run_model(model, rows, cache, history, shape.attention)
        with jax.named_scope("sample"):
            sampled = sampler(logits, rows, history, constraints, shape.attention.mesh)
            history = remember(sampled.token, rows, history)
        return cache, history, StepOutput(pack_output(sampled), hidden)

    return step


def run_model(
    model: Decoder, rows: RowTable, cache: list[Array], history: Int[Array, "slots N"], attention: AttentionOptions
) -> tuple[list[Array], Array, Float[Array, "T D"], Float[Array, "R V"]]:
    """The step up to the logits of each row's last token: cache, token table, hidden states, logits."""
    token_row, position, real = token_rows(rows)
    with jax.named_scope("tokens"):
        tokens, history = resolve_tokens(rows, token_row, position, real, history)
    hidden, cache = forward(model, tokens, position, cache, rows, attention)
    with jax.named_scope("head"):
        last = jnp.maximum(rows.cu_q_lens[1:] - 1, 0)
        logits = split_by_vocabulary(model.logits(hidden[last]), attention.mesh)
    return cache, history, hidden, logits


def resolve_tokens(
    rows: RowTable, token_row: Array, position: Array, real: Array, history: Int[Array, "slots N"]
) -> tuple[Int[Array, " T"], Int[Array, "slots N"]]:
    """The iteration's tokens, those that only the device knows looked up, and the token table with all of them."""
    slot = rows.ints(Column.SLOT)[token_row]
    tokens = jnp.where(rows.tokens == ON_DEVICE, history[slot, position], rows.tokens)
    nowhere = history.shape[0]
    history = history.at[jnp.where(real, slot, nowhere), position].set(tokens, mode="drop")
    return jnp.where(real, tokens, 0), history


def remember(token: Int[Array, " R"], rows: RowTable, history: Int[Array, "slots N"]) -> Int[Array, "slots N"]:
    """The token table with each sampling row's new token at its position."""
    samples = rows.ints(Column.SAMPLES) == 1
    slot = jnp.where(samples, rows.ints(Column.SLOT), history.shape[0])
    return history.at[slot, rows.kv_lens].set(jnp.maximum(token, 0), mode="drop")


def pack_output(s: Sampled) -> Int[Array, "R OUTPUT_WIDTH"]:
    def bits(x: Float[Array, "R n"]) -> Int[Array, "R n"]:
        return lax.bitcast_convert_type(x, jnp.int32)

    own = [s.token[:, None], bits(s.logprob[:, None]), s.rank[:, None]]
    return jnp.concatenate([*own, s.top_tokens, bits(s.top_logprobs)], axis=1)
