"""Where and how a measurement was taken, and the folder in which it is kept: a number without these means nothing."""

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes, versions, load averages and the commit of the source, if it is a checkout."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "load_average": os.getloadavg(),
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, "-m", "orca_jax.bench", *sys.argv[1:]]),
    }


def cpu_name() -> str:
    """The processor as Linux names it, its family and model with it: virtual machines often hide the rest."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    facts = dict(
        re.findall(r"^(model name|cpu family|model)\s*: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
    return (
        f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family')}, model {facts.get('model')})"
    )


def commit() -> str | None:
    """The checked-out commit, with a "+" where files differ from it."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def folder_name(facts: dict[str, Any]) -> str:
    """`DATE-MACHINE`, such as 2026-11-23-amd-epyc-2-cores."""
    model = re.sub(r"\(.*", "", facts["cpu"])
    return f"{facts['time'][:10]}-{re.sub('[^a-z0-9]+', '-', model.lower()).strip('-')}-{facts['cores']}-cores"


def save(name: str, found: list[dict[str, Any]], table: str, before: dict[str, Any], results: Path) -> Path:
    """Write `NAME.json` (every row) and `NAME.md` (the table) below `results`; returns the folder.

    `before` are the facts of the machine when the measurement began.
    """
    folder = results / folder_name(before)
    folder.mkdir(parents=True, exist_ok=True)
    after = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "load_average": os.getloadavg()}
    data = {"machine": before, "ended": after, "rows": found}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(f"# {name}\n\n{table}\n\n{how(before, after)}\n", encoding="utf-8")
    return folder


def how(before: dict[str, Any], after: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in before["versions"].items())
    loads = " to ".join(f"{facts['load_average'][0]:.1f}" for facts in (before, after))
    return (
        f"Taken {before['time']} to {after['time'][11:]} with `{before['command']}` at commit {before['commit']}: "
        f"{before['cpu']}, {before['cores']} cores, Python {before['python']}, {versions}, load average {loads}."
    )
