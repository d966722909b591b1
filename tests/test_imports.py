"""What has to be installed, and what an import costs: checked in fresh processes, where nothing is loaded yet."""

import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import orca_jax

ROOT = Path(__file__).resolve().parent.parent
CORE_NEEDS = ("jax", "flax", "jaxtyping", "numpy", "safetensors", "tokenizers", "jinja2")
CORE_ROOMS = (
    "core",
    "scheduling",
    "text",
    "grammar",
    "models",
    "execution",
    "engine",
    "observe",
    "offline",
    "testing",
    "bench",
)
HOST_ROOMS = ("core", "scheduling", "text", "grammar", "engine", "observe")
NOT_CORE = {
    "orca_jax.grammar.matcher",  # these two import llguidance, when the first grammar comes
    "orca_jax.grammar.vocabulary",
    "orca_jax.observe.picture",  # draws with Pillow, for whoever asks for a picture
    "orca_jax.testing.goldens",  # makes the golden files, with transformers and torch
}

SURFACE = {
    "LLM",
    "SamplingParams",
    "StructuredOutputsParams",
    "RequestOutputKind",
    "RequestOutput",
    "CompletionOutput",
    "Logprob",
    "RequestMetrics",
    "OrcaError",
    "ConfigError",
    "RequestError",
    "ContextLengthError",
    "CheckpointError",
    "EngineError",
    "__version__",
}

REFUSE = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not among what the core needs")

sys.meta_path.insert(0, Refuse())
for name in MODULES:
    importlib.import_module(name)
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def modules_of(*folders: str) -> list[str]:
    """Every module in these folders of the repository, by its full name."""
    names = []
    for folder in folders:
        prefix = folder.replace("/", ".")
        names += [m.name for m in pkgutil.walk_packages([str(ROOT / folder)], prefix=f"{prefix}.")]
    return sorted(names)


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def closure(roots: tuple[str, ...]) -> set[str]:
    """The distributions that `roots` require here, without extras, themselves included."""
    seen: set[str] = set()
    todo = [canonical(root) for root in roots]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonical(requirement.name))
    return seen


def test_the_core_imports_with_seven_libraries_and_what_those_need():
    allowed = closure(CORE_NEEDS)
    owners = importlib.metadata.packages_distributions()
    ours = {"orca_jax", "pallas_kernels"}
    forbidden = {top for top, by in owners.items() if not {canonical(name) for name in by} & allowed} - ours
    assert {"pytest", "hypothesis"} <= forbidden, "the test would prove nothing"
    modules = sorted(set(modules_of(*(f"orca_jax/{room}" for room in CORE_ROOMS), "pallas_kernels")) - NOT_CORE)
    run_python(f"FORBIDDEN = {sorted(forbidden)!r}\nMODULES = {modules!r}\n{REFUSE}")


def device_libraries_after(code: str) -> str:
    return run_python(f"{code}\nimport sys\nprint([m for m in ('jax', 'jaxlib', 'flax') if m in sys.modules])")


@pytest.mark.parametrize("statement", ["import orca_jax", "from orca_jax import SamplingParams, RequestOutput"])
def test_a_light_import_loads_no_jax(statement: str):
    assert device_libraries_after(statement) == "[]"


def test_the_whole_host_tower_loads_no_jax():
    modules = modules_of(*(f"orca_jax/{room}" for room in HOST_ROOMS))
    modules.remove("orca_jax.engine.build")
    assert device_libraries_after(f"import importlib\nfor m in {modules!r}: importlib.import_module(m)") == "[]"
    assert device_libraries_after("import orca_jax.models.layers") != "[]", "the test would prove nothing"


def test_kernels_load_no_pallas_until_they_are_called():
    loaded = "import sys; print([m for m in sys.modules if m.startswith('jax.experimental.pallas')])"
    kernels = "pallas_kernels.ragged_paged_attention"
    assert run_python(f"import {kernels}, orca_jax.models.layers; {loaded}") == "[]"
    assert run_python(f"import {kernels}.mosaic_tpu.kernel; {loaded}") != "[]", "the test would prove nothing"


def test_the_public_surface_is_pinned():
    assert set(orca_jax.__all__) == SURFACE
    assert set(dir(orca_jax)) >= SURFACE
    for name in SURFACE - {"__version__"}:
        assert getattr(orca_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = orca_jax.nothing


def test_the_version_is_the_installed_one():
    assert importlib.metadata.version("orca-jax") == orca_jax.__version__
