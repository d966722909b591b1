"""Operations of the Hopper kernels on registers and operands, as each version of JAX spells them, in one place.

JAX 0.10 compiles all of them, but its interpreter knows neither layouts of registers nor transposed operands. For it they
are written out with `jax.numpy`: the same numbers, without what layouts and wgmma check.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

WGMMA, ROWS, COLUMNS = plgpu.Layout.WGMMA, plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA.reduce(0)
SIMPLE_INTERPRETER = jax.__version_info__ < (0, 11)
INDEXED_LOAD = jax.__version_info__ < (0, 11)
HAS_STORE = jax.__version_info__ >= (0, 12)


def interpreter() -> Any:
    """The interpreter's parameters: it looks for unsynchronised accesses on the way."""
    if SIMPLE_INTERPRETER:  # the public module does not have them yet
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

        return InterpretGPUParams(detect_races=True)
    return plgpu.InterpretGPUParams(detect_races=True)


@dataclasses.dataclass(frozen=True)
class _Turned:
    """A matrix in shared memory that is read and written with its axes exchanged."""

    ref: Any


@dataclasses.dataclass(frozen=True)
class Ops:
    """`plain`: for an interpreter that knows `jax.numpy` only."""

    plain: bool

    def cast(self, x: jax.Array, layout: Any) -> jax.Array:
        """The same numbers in registers of another layout."""
        return x if self.plain else plgpu.layout_cast(x, layout)

    def full(self, shape: tuple[int, ...], value: float, layout: Any) -> jax.Array:
        """A constant with a register layout, to begin a loop with."""
        return self.cast(jnp.full(shape, value, jnp.float32), layout)

    def iota(self, shape: tuple[int, ...], axis: int, layout: Any) -> jax.Array:
        """Positions along an axis, int32."""
        if self.plain:
            return lax.broadcasted_iota(jnp.int32, shape, axis)
        return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=layout)

    def turned(self, ref: Any) -> Any:
        """A transposed matrix in shared memory, for `product` and `assign`."""
        return _Turned(ref) if self.plain else ref.transpose((1, 0))

    def assign(self, ref: Any, value: jax.Array) -> None:
        """Write registers to shared memory."""
        if isinstance(ref, _Turned):
            ref.ref[...] = value.T
        else:
            ref[...] = value

    def product(self, *pairs: tuple[Any, Any]) -> jax.Array:
        """The sum of a @ b over pairs of operands in shared memory, in float32 registers."""
        if self.plain:
            return sum(jnp.dot(_read(a), _read(b), preferred_element_type=jnp.float32) for a, b in pairs)

        def run(acc):
            for a, b in pairs:
                plgpu.wgmma(acc, a, b)
            return acc[...]

        shape = pairs[0][0].shape[0], pairs[0][1].shape[1]
        return pl.run_scoped(run, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))

    def load(self, ref: Any, layout: Any) -> jax.Array:
        """Registers of a layout, read from global memory as that layout has them."""
        if self.plain:
            return ref[...]
        return plgpu.load(ref, *(((),) if INDEXED_LOAD else ()), layout=layout, optimized=False)

    def store(self, ref: Any, value: jax.Array) -> None:
        """Write registers to global memory, as their layout has them."""
        if HAS_STORE:
            plgpu.store(ref, value, optimized=False)
        else:  # an assignment is that store (and a read of what was there, which the compiler drops)
            ref[...] = value


def _read(operand: Any) -> jax.Array:
    return operand.ref[...].T if isinstance(operand, _Turned) else operand[...]
