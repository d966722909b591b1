"""The executor for the devices of this process: packs a plan, dispatches the compiled step, reads what came back."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from orca_jax.core.errors import EngineError
from orca_jax.core.grammar import Masks
from orca_jax.core.plan import Sampling, Seat, StepPlan, StepResult, TokenLogprobs
from orca_jax.core.sampling_params import MAX_LOGPROBS
from orca_jax.execution.buckets import Bucket, smallest
from orca_jax.execution.constraints import Constraints, allocate_constraints, constraint_line
from orca_jax.execution.masked import MaskedStep
from orca_jax.execution.options import ExecutorOptions
from orca_jax.execution.outline import StepOutline
from orca_jax.execution.packing import Packer, packed_size
from orca_jax.execution.programs import COMPILES, Progress, compile_all
from orca_jax.execution.prompt_logprobs import PromptScorer
from orca_jax.execution.step import StepOutput
from orca_jax.models.decoder import Decoder
from pallas_kernels.ragged_paged_attention import passed_over


@dataclass(slots=True)
class InFlight:
    plan: StepPlan
    order: list[int]
    output: StepOutput
    bucket: Bucket
    num_compiled: int


class LocalExecutor:
    """Owns the parameters, the K/V cache and the per-slot tables; knows rows and buckets, not requests.

    Over a mesh the model's parameters are moved to where `StepOutline` wants them, unless they are there already.

    `warm_up` must have run before the first launch. Memory is allocated once, in the constructor.
    """

    depth = 1

    def __init__(self, model: Decoder, options: ExecutorOptions):
        self.options = options
        self.vocab_size = model.config.vocab_size
        self.outline = StepOutline(model, options)
        self.graph, self.treedef = self.outline.graph, self.outline.treedef
        memory = self.outline.memory
        self.parameters = tuple(jax.tree.leaves(nnx.state(model)))
        if options.mesh is not None:
            self.parameters = jax.device_put(self.parameters, tuple(x.sharding for x in memory.parameters))
        self.cache, self.history = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), (memory.cache, memory.history)
        )
        self.constraints = self._place(allocate_constraints(options.num_slots, self.vocab_size))
        self.packer = Packer(options.num_slots, options.pages_per_row)
        self.scorer = PromptScorer(self.outline)
        self.masked = MaskedStep(self.outline)
        self.steps: dict[Bucket, jax.stages.Compiled] = {}
        self.write_constraints: jax.stages.Compiled | None = None
        self.in_flight: deque[InFlight] = deque()
        self.iterations = dict.fromkeys(options.buckets, 0)
        self.compiles_after_warm_up = 0

    def warm_up(self, progress: Progress | None = None) -> None:
        """Compile every program, and run each once on an empty iteration, so that the first request pays for nothing."""
        o = self.options
        whole = [self.outline.step(bucket) for bucket in o.whole_buckets]
        halves = self.masked.programs()
        rest = [self.outline.write_constraints(), self.scorer.program()]
        compiled = compile_all([*whole, *halves, *rest], progress)
        self.steps = dict(zip(o.whole_buckets, compiled, strict=False))
        self.masked.use(compiled[len(whole) : -len(rest)])
        self.write_constraints, score = compiled[-len(rest) :]
        self.scorer.use(score)
        for bucket in o.whole_buckets:
            self.dispatch(bucket, np.zeros(packed_size(bucket, o.pages_per_row), np.int32))
        for bucket in o.half_buckets:
            self._run_masked(bucket, np.zeros(packed_size(bucket, o.pages_per_row), np.int32), [], dict)
        self.write_constraints(self._place(allocate_constraints(self.options.num_slots, self.vocab_size)), np.int32(0),
                               constraint_line(Sampling(), self.vocab_size))  # fmt: skip
        jax.block_until_ready(self.history)

    def launch(self, plan: StepPlan, masks: Callable[[], Masks] | None = None) -> None:
        """Dispatch one iteration. Raises `ValueError` when it fits no bucket, `EngineError` before the warm-up, and
        for masks where the options leave `structured_outputs` out.
        """
        before = COMPILES.count
        in_halves = masks is not None or self.options.always_in_halves
        buckets = self.options.half_buckets if in_halves else self.options.buckets
        if not buckets:
            raise EngineError("masks reached a device whose programs take none (structured_outputs)")
        bucket = smallest(buckets, plan.num_tokens, len(plan.rows))
        for seat in self.packer.new_seats(plan):
            if seat.sampling.has_constraints:
                self._constrain(seat)
        packed, order = self.packer.pack(plan, bucket)
        output = self._run_masked(bucket, packed, order, masks or dict) if in_halves else self.dispatch(bucket, packed)
        output.packed.copy_to_host_async()
        self.iterations[bucket] += 1
        num_compiled = COMPILES.count - before
        self.in_flight.append(InFlight(plan, order, output, bucket, num_compiled))
        self.compiles_after_warm_up += num_compiled

    def collect(self) -> StepResult:
        """Wait for the oldest iteration in flight."""
        before = COMPILES.count
        done = self.in_flight.popleft()
        packed = np.asarray(done.output.packed)
        tokens = [-1] * len(done.plan.rows)
        logprobs: dict[int, TokenLogprobs] = {}
        for line, i in enumerate(done.order):
            row = done.plan.rows[i]
            if row.samples:
                tokens[i] = int(packed[line, 0])
                if row.seat.sampling.logprobs is not None:
                    logprobs[i] = read_logprobs(packed[line], row.seat.sampling.logprobs)
        prompt_logprobs = self.scorer.score(done.plan, done.order, done.output.hidden, self.parameters)
        num_compiled = COMPILES.count - before
        self.compiles_after_warm_up += num_compiled
        shape = (done.bucket.tokens, done.bucket.rows)
        return StepResult(tuple(tokens), logprobs, prompt_logprobs, shape, done.num_compiled + num_compiled)

    def statistics(self) -> dict[str, float | int | str]:
        attention = self.options.attention.implementation
        note = passed_over(attention)
        return {
            "attention": attention,
            **({} if note is None else {"attention_note": note}),
            "programs": len(self.steps) + self.masked.num_programs + 2,
            "compiles_after_warm_up": self.compiles_after_warm_up,
            "kv_cache_bytes": sum(x.nbytes for x in self.cache),
            **{f"iterations_t{b.tokens}_r{b.rows}": n for b, n in self.iterations.items()},
        }

    def close(self) -> None:
        """Delete the device's arrays: cache, tables and parameters."""
        self.in_flight.clear()
        for array in jax.tree.leaves((self.cache, self.history, self.constraints, self.parameters)):
            if not array.is_deleted():
                array.delete()
        self.steps = {}
        self.masked.close()

    def dispatch(self, bucket: Bucket, packed: np.ndarray) -> StepOutput:
        """Start a bucket's step on a packed iteration: what `launch` does on the device, which benchmarks time by itself.

        Raises `EngineError` before the warm-up.
        """
        if bucket not in self.steps:
            raise EngineError("the executor has not been warmed up, or is closed")
        self.cache, self.history, output = self.steps[bucket](
            self.parameters, self.cache, self.history, self.constraints, packed
        )
        return output

    def _run_masked(
        self, bucket: Bucket, packed: np.ndarray, order: list[int], masks: Callable[[], Masks]
    ) -> StepOutput:
        memory = (self.parameters, self.cache, self.history, self.constraints)
        self.cache, self.history, output = self.masked.run(
            bucket, memory, packed, lambda: self.masked.lines(bucket, order, masks())
        )
        return output

    def _constrain(self, seat: Seat) -> None:
        if self.write_constraints is None:
            raise EngineError("the executor has not been warmed up, or is closed")
        line = constraint_line(seat.sampling, self.vocab_size)
        self.constraints = Constraints(*self.write_constraints(self.constraints, np.int32(seat.slot), line))

    def _place(self, tables: Constraints) -> Constraints:
        return tables if self.outline.whole is None else jax.device_put(tables, self.outline.whole)


def read_logprobs(line: np.ndarray, count: int) -> TokenLogprobs:
    """One row of the step's packed output, `i32[OUTPUT_WIDTH]`."""
    logprob = line[1:2].view(np.float32)[0]
    top_tokens = line[3 : 3 + MAX_LOGPROBS].tolist()
    top = line[3 + MAX_LOGPROBS :].view(np.float32).tolist()
    return TokenLogprobs(
        int(line[0]), float(logprob), int(line[2]), tuple(zip(top_tokens[:count], top[:count], strict=True))
    )
