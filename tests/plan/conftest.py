"""Steps compiled for described hardware: all that the chosen tests ask for, side by side, each once."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import jax
import pytest

from orca_jax.execution.buckets import Bucket
from orca_jax.models.config import DecoderConfig
from orca_jax.models.presets import preset_path, read_preset
from orca_jax.models.scan import LayerForm
from orca_jax.plan.compile import StepSpec, compile_step
from orca_jax.plan.hardware import HARDWARE, GiB
from orca_jax.plan.report import Refusal, StepReport
from orca_jax.plan.topologies import missing_compiler

PAGE = 32


@dataclass(frozen=True)
class Cell:
    """One place of the matrix. `num_layers` None is the model's own depth; `cache` is bytes on each device.

    `implementation` and the form of the layers are what an engine would choose there, unless they are named. `greedy` cells
    have no more of the sampler than the likeliest token.
    """

    model: str
    hardware: str
    num_devices: int
    num_layers: int | None = 2
    layers: LayerForm | None = None
    implementation: str | None = None
    cache: int = 2 * GiB
    bucket: Bucket | None = None
    greedy: bool = False

    def __str__(self) -> str:
        depth = "" if self.num_layers is None else f"{self.num_layers}-layers"
        bucket = "" if self.bucket is None else f"{self.bucket.tokens}-tokens"
        kind = "greedy" if self.greedy else ""
        named = (
            self.model,
            depth,
            self.hardware,
            f"x{self.num_devices}",
            bucket,
            self.layers,
            self.implementation,
            kind,
        )
        return "-".join(part for part in named if part)

    def spec(self) -> StepSpec:
        config = shape(self.model, self.num_layers)
        page_bytes = 2 * PAGE * 2 * config.num_kv_heads * config.head_dim * config.num_layers  # bfloat16
        side = 4 if HARDWARE[self.hardware].platform == "tpu" else 16  # small is sooner; XLA:GPU has no dot of 4 rows
        pages = self.cache * self.num_devices // page_bytes
        return StepSpec(
            config, "bfloat16", self.bucket or Bucket(side, side), pages, PAGE, 2048, self.hardware, self.num_devices,
            self.implementation, self.layers, self.greedy,
        )  # fmt: skip


def shape(model: str, num_layers: int | None) -> DecoderConfig:
    path = preset_path(model)
    assert path is not None
    config = read_preset(path)[1].config
    return config if num_layers is None else replace(config, num_layers=num_layers)


@pytest.fixture(scope="session")
def compiling(request: pytest.FixtureRequest):
    """The cells of all tests that will run, compiling in two threads: XLA works outside of Python's lock. In JAX 0.10 in
    one, as its XLA was seen to crash with two programs under way.
    """
    chosen = [item for item in request.session.items if item.get_closest_marker("skip") is None]
    cells = {item.callspec.params["cell"] for item in chosen if "cell" in fixtures_with_values(item)}
    with ThreadPoolExecutor(2 if jax.__version_info__ >= (0, 11) else 1) as pool:
        yield {cell: pool.submit(compile_step, cell.spec()) for cell in sorted(cells, key=str) if installed(cell)}
        pool.shutdown(cancel_futures=True)


def fixtures_with_values(item: pytest.Item) -> dict:
    return item.callspec.params if "callspec" in item.__dict__ else {}


def installed(cell: Cell) -> bool:
    return missing_compiler(HARDWARE[cell.hardware]) is None


@pytest.fixture
def result(cell: Cell, compiling: dict[Cell, Future]) -> StepReport | Refusal:
    if not installed(cell):
        pytest.skip(str(missing_compiler(HARDWARE[cell.hardware])))
    return compiling[cell].result()
