"""What a compiled program does, read from its text: products, collectives, and what is as large as the cache.

The text is XLA's optimised HLO, a list of computations that call each other. It is walked from the entry along its calls,
so that what a fusion, a loop or a branch does is counted where it happens, once for each call.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
PRODUCTS = ("dot", "convolution", "scaled-dot")
GEMM = re.compile(r'custom_call_target="__(cublas|cudnn)[^"]*"')

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_PLACES = "calls|body|true_computation|false_computation|called_computations|branch_computations"
_CALLS = re.compile(rf"(?:{_PLACES})=(\{{[^}}]*\}}|%?[\w.\-]+)")
_CALLED = re.compile(rf"(?:{_PLACES}|to_apply)=(\{{[^}}]*\}}|%?[\w.\-]+)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction as it is reached. `scope` is the path of named scopes in our own code; `loops` and `branches` say in how
    many loops and conditional branches it stands. A collective in a loop runs once in each round.
    """

    opcode: str
    shape: str
    scope: str
    loops: int
    branches: int
    line: str

    def __str__(self) -> str:
        """What tells it from others, on a short line."""
        return f"{self.shape} {self.opcode} in {self.scope!r}"

    @property
    def bytes(self) -> int:
        """Size of the result, the largest one where there are several."""
        sizes = [
            math.prod(map(int, dimensions.split(","))) * ITEM_BYTES.get(kind, 0) if dimensions else 0
            for kind, dimensions in _ARRAY.findall(self.shape)
        ]
        return max(sizes, default=0)


@dataclass(frozen=True, slots=True)
class Collective:
    """Something the devices do together. `bytes` is the size of its result, the largest one where there are several."""

    kind: str
    scope: str
    bytes: int
    loops: int
    branches: int


class ProgramText:
    """Optimised HLO, parsed once."""

    def __init__(self, text: str):
        self.text = text
        self.computations: dict[str, list[str]] = {}
        self.entry = ""
        current: list[str] = []
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header is not None:
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith(" "):
                current.append(line.split(", backend_config=", 1)[0])  # a kernel's whole code can stand there

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """Every instruction, once for each way that leads to it from the entry."""
        return tuple(self._walk(self.entry, 0, 0))

    def _walk(self, computation: str, loops: int, branches: int) -> Iterator[Instruction]:
        for line in self.computations[computation]:
            found = _INSTRUCTION.match(line)
            if found is None:
                continue
            shape, opcode = found.groups()
            scope = re.search(r'op_name="([^"]*)"', line)
            yield Instruction(opcode, shape, scope[1] if scope else "", loops, branches, line.strip())
            # `to_apply` of anything but a call is a scalar function, such as a reduction's sum
            for names in (_CALLED if opcode.startswith("call") else _CALLS).findall(line):
                for name in re.findall(r"[\w.\-]+", names):
                    yield from self._walk(name, loops + (opcode == "while"), branches + (opcode == "conditional"))

    def collectives(self) -> tuple[Collective, ...]:
        """All collectives; one that is started and awaited counts once."""
        return tuple(
            Collective(kind, each.scope, each.bytes, each.loops, each.branches)
            for each in self.instructions
            if (kind := each.opcode.removesuffix("-start")) in COLLECTIVES
        )

    def products(self) -> list[Instruction]:
        """All matrix products, in whatever form the compiler gives them."""
        return [
            each
            for each in self.instructions
            if each.opcode in PRODUCTS or (each.opcode == "custom-call" and GEMM.search(each.line))
        ]

    def aliased(self) -> int:
        """How many results live in the memory of an argument."""
        found = re.search(r"input_output_alias=\{(.*?)\}, entry", self.text)
        return found[1].count("-alias") if found else 0
