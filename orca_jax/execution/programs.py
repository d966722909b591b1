"""Compiling: every program the executor will ever run is made here, before serving, and counted.

Programs are kept as compiled objects, which refuse other shapes instead of compiling for them: after the warm-up nothing
can compile, and the counter says so.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from orca_jax.core.config import EngineConfig

Progress = Callable[[int, int, str], None]
"""`(done, total, what)`, called as each program becomes ready."""

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """How many programs XLA has been asked for by the calling thread.

    JAX keeps its listeners for good, so there is one counter (`COMPILES`), made when this module is imported; who wants
    to know about a span of time takes the difference. Each thread has its own count: what a neighbour compiles is not
    the engine's doing.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        monitoring.register_event_duration_secs_listener(self._listen)

    @property
    def count(self) -> int:
        return self._local.__dict__.get("count", 0)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILE_EVENT:
            self._local.count = self.count + 1


COMPILES = CompileCounter()


@dataclass(frozen=True, slots=True)
class Program:
    """Something to compile: a function, the abstract arguments to compile it for, what of them is donated.

    `results` are the shardings of what it returns, None where nothing is split; `mesh` has the devices then.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: tuple[int, ...] = ()
    results: Any = None
    mesh: Mesh | None = None

    def lower(self) -> jax.stages.Lowered:
        jitted = jax.jit(self.function, donate_argnums=self.donate, out_shardings=self.results)
        if self.mesh is None:
            return jitted.lower(*self.arguments)
        with jax.set_mesh(self.mesh):  # kernels read from it which hardware they are for
            return jitted.lower(*self.arguments)


def compile_all(programs: Iterable[Program], progress: Progress | None = None) -> list[jax.stages.Compiled]:
    """Every program, compiled. Lowering holds Python's lock and runs here; XLA compiles beside it in threads."""
    programs = list(programs)
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        futures = [pool.submit(program.lower().compile) for program in programs]
        compiled = []
        for program, future in zip(programs, futures, strict=True):
            compiled.append(future.result())
            if progress is not None:
                progress(len(compiled), len(programs), program.name)
    return compiled


def use_compilation_cache(config: EngineConfig) -> None:
    """Keep compiled programs across runs, small ones too, where the configuration says; it says it for the process."""
    told = jax.config.jax_compilation_cache_dir
    folder = config.cache_path(told)
    if folder is None or str(folder) != told:
        compilation_cache.reset_cache()  # JAX keeps using the first place that it has used, whatever it is told later
        jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    if folder is None:
        return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def abstract(tree: Any) -> Any:
    """The shapes and dtypes of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
