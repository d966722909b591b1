"""What is known of a step for hardware that is not there: that it compiles, what it takes, whether that fits."""

from collections import Counter
from dataclasses import dataclass, field

from orca_jax.plan.program_text import Collective, ProgramText


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step that compiled. All sizes are bytes on one device; results that live in an argument are `aliased_bytes`."""

    hardware: str
    num_devices: int
    implementation: str
    layers: str
    parameter_bytes: int
    cache_bytes: int
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    aliased_bytes: int
    code_bytes: int
    memory_bytes: int
    collectives: tuple[Collective, ...]
    text: ProgramText = field(repr=False, compare=False)

    @property
    def needed_bytes(self) -> int:
        """What must be there at once while the step runs."""
        fresh = self.output_bytes - self.aliased_bytes
        return self.argument_bytes + self.temporary_bytes + fresh + self.code_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.memory_bytes

    def counts(self, *, in_loops: bool) -> dict[str, int]:
        """Collectives by kind, inside of loops (each runs once in a round) or outside."""
        return dict(Counter(each.kind for each in self.collectives if (each.loops > 0) == in_loops))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that the compiler refused because it does not fit. Bytes are the compiler's, per device; None: not said."""

    hardware: str
    num_devices: int
    implementation: str
    layers: str
    needed_bytes: int | None
    memory_bytes: int | None
    reason: str

    @property
    def fits(self) -> bool:
        return False
