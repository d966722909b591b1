"""Checkpoints of a run, so that it can stop at any moment and lose a few minutes at most."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optax
import orbax.checkpoint as ocp

from orca_jax.core.errors import ConfigError
from orca_jax.train.model import Parameters


@dataclass(slots=True)
class Progress:
    """Where a run stands, beside its weights. `curve`: `{step, tokens, loss}` or `{step, tokens, bits_per_byte}` each."""

    step: int
    tokens: int
    seconds: float
    curve: list[dict[str, float]]
    pipeline: dict[str, Any]


class Checkpoints:
    """The two newest checkpoints of a run, in one folder; saving does not hold up the training."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """The newest checkpoint's step."""
        return self._manager.latest_step()

    def save(self, parameters: Parameters, state: optax.OptState, progress: Progress) -> None:
        self._manager.save(
            progress.step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardSave({"parameters": parameters, "optimizer": state}),
                progress=ocp.args.JsonSave(asdict(progress)),
            ),
        )

    def restore(self, parameters: Parameters, state: optax.OptState) -> tuple[Parameters, optax.OptState, Progress]:
        """The newest checkpoint; `parameters` and `state` give the shapes and the devices."""
        step = self.latest()
        if step is None:
            raise ConfigError(f"nothing to resume in {self._manager.directory}; start without --resume")
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardRestore({"parameters": parameters, "optimizer": state}),
                progress=ocp.args.JsonRestore(),
            ),
        )
        weights = saved["weights"]
        return weights["parameters"], weights["optimizer"], Progress(**saved["progress"])

    def close(self) -> None:
        """Waits for what is still being written."""
        self._manager.wait_until_finished()
        self._manager.close()
