"""The seeded workloads that engines are compared on, and the file in which a driver of another engine reads one."""

import json
import random
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orca_jax.core.errors import ConfigError
from orca_jax.core.naming import check_names
from orca_jax.core.resources import configs_dir

KEYS = ("seed", "requests", "prompt_len", "output_len", "tokens")


@dataclass(frozen=True, slots=True)
class Job:
    """One request of a workload: a prompt of token ids and how many tokens to answer with, exactly."""

    id: int
    prompt: list[int]
    output_len: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival; all of them arrive at time zero."""

    name: str
    seed: int
    requests: list[Job]

    @property
    def tokens_in(self) -> int:
        return sum(len(job.prompt) for job in self.requests)

    @property
    def tokens_out(self) -> int:
        return sum(job.output_len for job in self.requests)

    def write(self, folder: Path) -> Path:
        """The workload as `NAME.json` in `folder`."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def load_workloads(path: Path | None = None) -> dict[str, Workload]:
    """The workloads of a TOML file, by default those of configs/bench. Raises ConfigError naming file and key."""
    path = path or configs_dir() / "bench" / "workloads.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return {name: make_workload(name, table, f"{path} [{name}]") for name, table in tables.items()}


def make_workload(name: str, table: dict[str, Any], where: str) -> Workload:
    """Draw a workload: first all lengths, then the prompts' tokens, from one generator."""
    check_names(where, table, KEYS, {}, lambda message, _: ConfigError(message))
    missing = [key for key in KEYS if key not in table]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    rng = random.Random(table["seed"])
    lengths = [(draw(rng, table["prompt_len"]), draw(rng, table["output_len"])) for _ in range(table["requests"])]
    low, high = table["tokens"]
    jobs = [
        Job(i, [rng.randrange(low, high + 1) for _ in range(given)], asked) for i, (given, asked) in enumerate(lengths)
    ]
    return Workload(name, table["seed"], jobs)


def draw(rng: random.Random, length: int | list[int]) -> int:
    """A fixed length costs the generator nothing."""
    return length if isinstance(length, int) else rng.randint(*length)


def read_workload(path: Path) -> Workload:
    """What `Workload.write` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Workload(data["name"], data["seed"], [Job(r["id"], r["prompt"], r["output_len"]) for r in data["requests"]])


def find_workloads(names: list[str]) -> list[Workload]:
    """Each name is a workload of configs/bench or a JSON file. Raises ConfigError for any other."""
    known = load_workloads()
    found = []
    for name in names:
        if name in known:
            found.append(known[name])
        elif Path(name).is_file():
            found.append(read_workload(Path(name)))
        else:
            raise ConfigError(f"workload {name!r} is neither a file nor one of {', '.join(known)}")
    return found
