"""Installed compilers are left alone only where there is nothing for them to find."""

import importlib.util
from pathlib import Path

import pytest

from orca_jax.cli import platform
from orca_jax.cli.platform import spare_compilers


@pytest.fixture(autouse=True)
def linux_with_compilers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform.sys, "platform", "linux")
    monkeypatch.setattr(platform, "COMPILERS", ("json",))


def test_without_hardware_jax_is_told_to_use_the_cpu(tmp_path: Path):
    environment: dict[str, str] = {}
    spare_compilers(environment, tmp_path)
    assert environment == {"JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize("node", ["accel0", "vfio/0", "nvidia0", "dxg", "kfd"])
def test_hardware_is_never_hidden(tmp_path: Path, node: str):
    (tmp_path / node).parent.mkdir(exist_ok=True)
    (tmp_path / node).touch()
    environment: dict[str, str] = {}
    spare_compilers(environment, tmp_path)
    assert environment == {}


def test_an_empty_vfio_folder_is_no_hardware(tmp_path: Path):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio/vfio").touch()
    environment: dict[str, str] = {}
    spare_compilers(environment, tmp_path)
    assert environment == {"JAX_PLATFORMS": "cpu"}


def test_what_jax_was_told_stays(tmp_path: Path):
    environment = {"JAX_PLATFORMS": ""}
    spare_compilers(environment, tmp_path)
    assert environment == {"JAX_PLATFORMS": ""}


def test_without_compilers_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "COMPILERS", ("no_such_compiler",))
    assert importlib.util.find_spec("no_such_compiler") is None
    environment: dict[str, str] = {}
    spare_compilers(environment, tmp_path)
    assert environment == {}
