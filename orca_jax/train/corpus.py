"""The training text: the standard library's own sources, which every machine that can run this already holds."""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orca_jax.core.errors import ConfigError

SKIPPED_FOLDERS = frozenset({"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})
"""Tests are absent from many installations, lib2to3 from the newest; without them the corpus is the same everywhere."""

GENERATED = ("encodings/cp", "encodings/iso8859", "encodings/mac_", "encodings/koi8", "encodings/tis_", "encodings/kz",
             "encodings/ptcp", "encodings/hp_")  # fmt: skip
"""Character tables written by a program: a seventh of the bytes and nothing to learn."""


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its path below the library's root, with forward slashes, and its text."""

    path: str
    text: str


def library_root() -> Path:
    """The standard library's folder of the interpreter that runs this."""
    return Path(sysconfig.get_paths()["stdlib"])


def read_modules(root: Path) -> list[Module]:
    """Every module under `root` that is worth learning, by path. Files that are not UTF-8 are left out."""
    modules = list(_modules(root))
    if not modules:
        raise ConfigError(f"no Python sources under {root}; train with an interpreter that has its library as files")
    return modules


def _modules(root: Path) -> Iterator[Module]:
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        if SKIPPED_FOLDERS.intersection(path.split("/")[:-1]) or path.startswith(GENERATED):
            continue
        text = _utf8(file.read_bytes())
        if text.strip():
            yield Module(path, text)


def _utf8(data: bytes) -> str:
    """The text of a source file; empty where it is in another encoding."""
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return ""


def is_held_out(path: str, seed: int, fraction: float) -> bool:
    """Whether a module is kept for evaluation: a seeded hash of its path, so that it never depends on its neighbours."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def split(modules: list[Module], seed: int, fraction: float) -> tuple[list[Module], list[Module]]:
    """The modules to learn from and the modules to be judged by."""
    held_out = [module for module in modules if is_held_out(module.path, seed, fraction)]
    train = [module for module in modules if not is_held_out(module.path, seed, fraction)]
    return train, held_out


def conversations(module: Module, longest: int = 2500) -> Iterator[tuple[str, str]]:
    """Question and answer pairs from a module's documented functions: the docstring asks, the source answers.

    `longest` is in characters of source; longer functions are left out, so that an answer ends inside a window.
    """
    try:
        tree = ast.parse(module.text)
    except SyntaxError:
        return
    lines = module.text.split("\n")  # ast.get_source_segment would split the module again for every function
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        doc, source = ast.get_docstring(node), _dedented(lines[node.lineno - 1 : node.end_lineno], node.col_offset)
        if doc and "\n" in source and len(source) <= longest:
            yield f"Write a function {node.name}: {doc.splitlines()[0].strip()}", source


def _dedented(lines: list[str], columns: int) -> str:
    """A method's source as if it stood alone."""
    return "\n".join(line.removeprefix(" " * columns) for line in lines)
