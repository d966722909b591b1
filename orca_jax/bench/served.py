"""A server of ours as a process of its own, and what can be read off it from outside."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orca_jax.bench.wire import ask
from orca_jax.core.errors import EngineError

READY = re.compile(r"is served at (http://\S+)")
SAMPLE = re.compile(r"^\w+:(\w+?)(?:_total)?(?:\{(.*)\})? (\S+)$", re.MULTILINE)
REASON = re.compile(r'(?:finished_)?reason="(\w+)"')
START_SECONDS, END_SECONDS = 600.0, 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A server that listens."""

    address: str
    process: subprocess.Popen[bytes]

    def resident_bytes(self) -> int:
        """The memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """What all threads of the process have spent so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100  # in Linux's ticks for user space, on every architecture

    def end(self) -> int:
        """Ask it to end; its exit status."""
        self.process.terminate()
        return self.process.wait(END_SECONDS)


@contextmanager
def serving(settings: Sequence[str]) -> Iterator[Served]:
    """`orca-jax serve` at a free port. Raises EngineError with its last words where it does not come up."""
    command = [sys.executable, "-m", "orca_jax", "serve", "--port", "0", *settings]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
            try:
                yield Served(address_in(log, process), process)
            finally:
                process.kill()


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """What the server says of itself once it listens."""
    deadline = time.monotonic() + START_SECONDS
    while (found := READY.search(log.read_text(errors="replace"))) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise EngineError(f"orca-jax serve does not listen: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.1)
    return found[1]


async def scrape(address: str) -> dict[str, float] | None:
    """The metrics by name without prefix, as `name` or `name reason`; None from a server that offers none."""
    reply = await ask(address, "GET", "/metrics")
    return read_metrics(reply.body.decode()) if reply.status == 200 else None


def read_metrics(text: str) -> dict[str, float]:
    """Prometheus' text format, as far as it is needed here."""
    found: dict[str, float] = {}
    for name, labels, value in SAMPLE.findall(text):
        reason = REASON.search(labels)
        key = name if reason is None else f"{name} {reason[1]}"
        found[key] = found.get(key, 0.0) + float(value)
    return found
