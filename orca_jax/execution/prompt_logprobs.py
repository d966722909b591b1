"""Log-probabilities of a prompt's own tokens, computed beside the step from the hidden states it returns.

Few requests ask for them, so the step does not carry them: the hidden states are read back and scored in blocks by one
more compiled program.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from orca_jax.core.plan import Row, StepPlan, TokenLogprobs
from orca_jax.core.sampling_params import MAX_LOGPROBS
from orca_jax.execution.outline import StepOutline
from orca_jax.execution.programs import Program
from orca_jax.execution.sampler import Sampled, describe

BLOCK = 64


class PromptScorer:
    """Scores `BLOCK` hidden states at a time against the tokens that follow them."""

    def __init__(self, outline: StepOutline):
        self.outline = outline
        self.width = outline.config.hidden_size
        self.compiled: Callable[..., Sampled] | None = None

    def program(self) -> Program:
        o = self.outline

        def score(parameters: tuple[Array, ...], hidden: Float[Array, "B D"], targets: Int[Array, " B"]) -> Sampled:
            model = nnx.merge(o.graph, jax.tree.unflatten(o.treedef, parameters))
            return describe(model.logits(hidden), targets)

        hidden = jax.ShapeDtypeStruct((BLOCK, self.width), jnp.float32)
        targets = jax.ShapeDtypeStruct((BLOCK,), jnp.int32)
        arguments = (o.memory.parameters, *o.same_everywhere((hidden, targets)))
        return Program("prompt log-probabilities", score, arguments, results=o.whole, mesh=o.options.mesh)

    def use(self, compiled: Callable[..., Sampled]) -> None:
        self.compiled = compiled

    def score(
        self, plan: StepPlan, order: list[int], hidden: Float[Array, "T D"], parameters: tuple[Array, ...]
    ) -> dict[int, tuple[TokenLogprobs, ...]]:
        """For each row that wants it, an entry for every prompt token of the row whose successor is in the prompt.

        The successors within the row are known here; the one after the row's last token comes with the next chunk, so it
        is carried by `Row.next_prompt_token`.
        """
        entries: dict[int, tuple[TokenLogprobs, ...]] = {}
        offset = 0
        for i in order:
            row = plan.rows[i]
            count = row.seat.sampling.prompt_logprobs
            if count is not None and row.start < row.seat.sampling.prompt_len:
                targets = successors(row)
                block = np.asarray(hidden)[offset : offset + len(targets)]
                entries[i] = self._score(block, targets, count, parameters)
            offset += row.count
        return entries

    def _score(
        self, hidden: np.ndarray, targets: list[int], count: int, parameters: tuple[Array, ...]
    ) -> tuple[TokenLogprobs, ...]:
        out: list[TokenLogprobs] = []
        for begin in range(0, len(targets), BLOCK):
            some = targets[begin : begin + BLOCK]
            x = np.zeros((BLOCK, self.width), np.float32)
            x[: len(some)] = hidden[begin : begin + BLOCK]
            y = np.zeros(BLOCK, np.int32)
            y[: len(some)] = some
            if self.compiled is None:
                raise RuntimeError("prompt log-probabilities were asked for before the warm-up")
            s = jax.tree.map(np.asarray, self.compiled(parameters, x, y))
            top = np.stack([s.top_tokens, s.top_logprobs], -1)[:, : min(count, MAX_LOGPROBS)]
            out += [
                TokenLogprobs(t, float(s.logprob[j]), int(s.rank[j]), tuple((int(a), float(b)) for a, b in top[j]))
                for j, t in enumerate(some)
            ]
        return tuple(out)


def successors(row: Row) -> list[int]:
    """The prompt tokens that follow the row's prompt tokens."""
    known = list(row.tokens[1:])
    if row.next_prompt_token is not None:
        known.append(row.next_prompt_token)
    return known[: row.seat.sampling.prompt_len - row.start - 1]
