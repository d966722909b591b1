"""`orca-jax info`: what this machine has, and what the engine would choose on it."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from orca_jax.cli.flags import add_engine_flags, engine_settings
from orca_jax.core.config import EngineConfig
from orca_jax.offline.summary import in_bytes, kv_pool

if TYPE_CHECKING:
    from orca_jax.engine.build import EngineInfo
    from orca_jax.offline.machine import MachineInfo

HELP = "show devices, memory, and what would be chosen for a model"
USAGE = "[options]"
DESCRIPTION = """Show versions, devices and attention of this machine, and what the engine would choose on it.

That is lengths, K/V memory and compiled shapes, for the model that ships with orca-jax unless --model names another.
No weights are loaded and nothing is compiled."""
EPILOG = """examples:
  orca-jax info
  orca-jax info --model ./Qwen3-0.6B --max-num-seqs 32
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    config = EngineConfig.from_settings(engine_settings(args))
    from orca_jax.offline.machine import describe_machine, plan_engine

    machine = describe_machine(config)
    engine = plan_engine(config)
    if args.json:
        print(json.dumps({"machine": asdict(machine), "engine": asdict(engine)}, indent=2))
    else:
        table = machine_table(machine) + engine_table(engine)
        print("\n".join(f"{name:<22} {value}".rstrip() for name, value in table))
    return 0


def machine_table(machine: "MachineInfo") -> list[tuple[str, str]]:
    """What is shown of a machine: names and values."""
    table = [("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items()))]
    for device in machine.devices:
        memory = "" if device.memory_bytes is None else f", {in_bytes(device.memory_bytes)}"
        table.append(("device", f"{device.name} ({device.platform}{memory})"))
    table.append(("host", f"{machine.num_cores} cores, {in_bytes(machine.host_memory_bytes)}"))
    note = "" if machine.attention_note is None else f" ({machine.attention_note})"
    table.append(("attention", machine.attention + note))
    return table


def engine_table(engine: "EngineInfo") -> list[tuple[str, str]]:
    """What is shown of an engine that would be built."""
    shapes = " ".join(f"{bucket.tokens}x{bucket.rows}" for bucket in engine.buckets)
    return [
        ("", ""),
        ("model", engine.model),
        ("architecture", engine.architecture),
        ("parameters", f"{engine.num_parameters:,} ({in_bytes(engine.parameter_bytes)} in {engine.dtype})"),
        ("max_model_len", f"{engine.max_model_len} tokens"),
        ("max_num_seqs", f"{engine.max_num_seqs} sequences"),
        ("max_num_batched_tokens", f"{engine.max_num_batched_tokens} tokens"),
        ("lookahead", str(engine.lookahead)),
        ("deterministic", "yes" if engine.deterministic else "no"),
        ("K/V pool", kv_pool(engine)),
        ("buckets", f"{len(engine.buckets)} compiled shapes of tokens x rows: {shapes}"),
    ]
