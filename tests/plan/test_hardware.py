"""Described hardware: names, sizes, what is said when a compiler is missing."""

import importlib.util
import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from orca_jax.core.errors import ConfigError
from orca_jax.execution.buckets import Bucket
from orca_jax.models.sharding import tensor_mesh
from orca_jax.plan import topologies
from orca_jax.plan.compile import AVAILABLE, NEEDED, StepSpec, compile_step, in_bytes
from orca_jax.plan.hardware import HARDWARE, GiB, find_hardware
from orca_jax.plan.topologies import MissingCompilerError, described_devices, missing_compiler
from pallas_kernels.ragged_paged_attention import pages_shape
from tests.plan.conftest import shape


def test_memory_is_known_of_every_device():
    sizes = {name: hardware.memory_bytes for name, hardware in HARDWARE.items()}
    assert sizes["v5e"] == 16 * GiB
    assert sizes["h100"] == 85520809984
    assert 79e9 < sizes["h100"] < sizes["h200"] < 151e9 < sizes["b200"] < 194e9
    assert all(size >= 16 * GiB for size in sizes.values())


@pytest.mark.parametrize("name", HARDWARE)
@pytest.mark.parametrize("num_devices", [1, 8])
def test_every_slice_can_be_described(name: str, num_devices: int):
    if missing_compiler(HARDWARE[name]):
        pytest.skip(str(missing_compiler(HARDWARE[name])))
    devices = described_devices(name, num_devices)
    assert len(devices) == num_devices
    assert {device.platform for device in devices} <= {HARDWARE[name].platform, "gpu"}


def test_unknown_hardware_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"hardware 'h20' is not one of v5e, .*did you mean 'h200'"):
        find_hardware("h20", 1)
    with pytest.raises(ConfigError, match=r"3 devices of v5e are not described \(take 1 or 8\)"):
        find_hardware("v5e", 3)


def test_a_missing_compiler_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(topologies.shutil, "which", lambda name: None)
    with pytest.raises(MissingCompilerError, match=r"compiled for v6e here: libtpu not found \(pip install libtpu;"):
        described_devices("v6e", 8)
    with pytest.raises(MissingCompilerError, match=r"pip install jax-cuda13-plugin==\S+ nvidia-cuda-nvcc;"):
        described_devices("h200", 1)


def test_what_cannot_be_planned_is_refused():
    if missing_compiler(HARDWARE["h200"]):
        pytest.skip(str(missing_compiler(HARDWARE["h200"])))
    config = shape("qwen3-0.6b", 2)
    with pytest.raises(ConfigError, match="implementation = 'flash': attention implementation 'flash' is not one of"):
        compile_step(StepSpec(config, "bfloat16", Bucket(4, 4), 64, 32, 128, "h200", 1, "flash"))
    with pytest.raises(ConfigError, match="num_kv_heads = 6 cannot be shared out evenly over 8 devices"):
        odd = replace(shape("gpt-13b", 2), num_heads=6, num_kv_heads=6)
        compile_step(StepSpec(odd, "bfloat16", Bucket(4, 4), 64, 32, 128, "h200", 8, "xla"))


@pytest.mark.parametrize(
    ("text", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (17.96G) exceeds available HBM (15.75G). HLO module: jit_step.",
            int(17.96 * GiB),
            int(15.75 * GiB),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 512.5M of "
            "15.75G hbm. Exceeded hbm capacity by 5.62G.",
            int(512.5 * 2**20),
            int(15.75 * GiB),
        ),
        ("RESOURCE_EXHAUSTED: in words of another version", None, None),
    ],
)
def test_a_refusal_s_bytes_are_read(text: str, needed: int | None, available: int | None):
    assert (in_bytes(NEEDED.search(text)), in_bytes(AVAILABLE.search(text))) == (needed, available)


def test_the_target_configurations_are_part_of_the_package():
    code = "from importlib import resources; print(sorted(p.name for p in resources.files('orca_jax.plan').iterdir()))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"{name}.textproto" in names for name in ("h100", "h200", "b200"))


def test_xla_keeps_canonical_pages_where_arrays_are_tiled():
    if missing_compiler(HARDWARE["v5e"]):
        pytest.skip(str(missing_compiler(HARDWARE["v5e"])))
    with jax.set_mesh(tensor_mesh(described_devices("v5e", 1))):
        assert pages_shape("xla", 5, 32, 8, 128) == (5, 32, 16, 128)
    assert pages_shape("xla", 5, 32, 8, 128) == (5, 2, 8, 32, 128)
