"""The training run: batches in, updates out, a look at the held-out modules and a checkpoint now and then."""

import json
import os
import time
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp

from orca_jax.core.errors import ConfigError
from orca_jax.train.checkpoint import Checkpoints, Progress
from orca_jax.train.config import TrainConfig
from orca_jax.train.dataset import Dataset
from orca_jax.train.evaluate import bits_per_byte, held_out_windows
from orca_jax.train.model import Parameters, initial_parameters
from orca_jax.train.optimizer import optimizer
from orca_jax.train.pipeline import batches, restored
from orca_jax.train.report import Meter
from orca_jax.train.schedule import Schedule, progress
from orca_jax.train.step import make_losses, make_update
from orca_jax.train.tokenizer import END


class Trainer:
    """One run in `folder`; `run` goes on until the schedule ends, `interrupt` makes it stop earlier, checkpointed."""

    def __init__(self, config: TrainConfig, dataset: Dataset, folder: Path):
        self.config, self.dataset, self.folder = config, dataset, folder
        self.decoder = config.model.decoder()
        self._end = dataset.tokenizer.token_to_id(END)
        self._length = config.model.max_position_embeddings
        self._optimizer = optimizer(config.optimizer)
        self._updates: dict[int, Any] = {}
        self._losses = make_losses(self.decoder, jnp.dtype(config.run.compute_dtype))
        self._windows = held_out_windows(dataset.held_out, end=self._end, length=self._length)
        self._iterator = self._batches()
        self._checkpoints = Checkpoints(folder / "checkpoints")
        self._interrupted = False
        self.parameters: Parameters = initial_parameters(self.decoder, config.run.seed)
        self.state = self._optimizer.init(self.parameters)
        self.progress = Progress(step=0, tokens=0, seconds=0.0, curve=[], pipeline={})

    def _batches(self) -> grain.DatasetIterator:
        data = self.config.data
        source = batches(self.dataset.train, end=self._end, length=self._length, batch=data.batch, seed=data.seed)
        return iter(source)

    def resume(self) -> None:
        """Continues the newest checkpoint: weights, optimizer, and the pipeline at the batch that follows."""
        self.parameters, self.state, self.progress = self._checkpoints.restore(self.parameters, self.state)
        self._iterator.set_state(restored(self.progress.pipeline))

    def refuse_old_run(self) -> None:
        """Raises ConfigError where the folder holds another run: its checkpoints would win over earlier steps of this one."""
        step = self._checkpoints.latest()
        if step is not None:
            raise ConfigError(f"{self.folder} holds a run at step {step}; go on with --resume, or name another --run")

    def interrupt(self) -> None:
        """Ends `run` after the update in progress."""
        self._interrupted = True

    @property
    def behind(self) -> float:
        """The share of the schedule that is behind, 0 to 1."""
        run, p = self.config.run, self.progress
        return progress(step=p.step, steps=run.steps, seconds=p.seconds, minutes=run.minutes)

    def run(self) -> bool:
        """Trains to the end of the schedule; False when it was interrupted before. Either way a checkpoint is left."""
        if self.behind >= 1.0:
            return True
        run = self.config.run
        meter = Meter(run.print_every_steps)
        clock = time.monotonic() - self.progress.seconds
        evaluated = saved = self.progress.seconds
        while self.behind < 1.0 and not self._interrupted:
            loss = self.update()
            self.progress.seconds = time.monotonic() - clock
            if meter.add(self.progress, loss, self.behind):
                self._note(loss=meter.mean)
            if self.progress.seconds - evaluated > 60 * run.evaluate_every:
                evaluated = self.progress.seconds
                self.evaluate()
            if self.progress.seconds - saved > 60 * run.checkpoint_every:
                saved = self.progress.seconds
                self.save()
        if not self._interrupted:
            self.evaluate()
        self.save()
        return not self._interrupted

    def update(self) -> float:
        """One batch, one update; its mean loss in nats."""
        height = Schedule(self.config.run.warmup, self.config.run.decay).height(self.behind)
        if not self.progress.step:
            height = max(height, 1e-3)  # a run on time has no progress yet at its first step
        batch = {name: jnp.asarray(value) for name, value in next(self._iterator).items()}
        step = self._update_for(self.config.data.window_at(self.behind))
        self.parameters, self.state, loss = step(self.parameters, self.state, batch, jnp.float32(height))
        self.progress.step += 1
        self.progress.tokens += batch["inputs"].size
        return float(loss)

    def _update_for(self, window: int):
        if window not in self._updates:
            dtype = jnp.dtype(self.config.run.compute_dtype)
            self._updates[window] = make_update(self.decoder, self._optimizer, dtype, window)
        return self._updates[window]

    def evaluate(self) -> float:
        """Bits per byte on the held-out modules, printed and put on the curve."""

        def losses(*window: Any) -> Any:
            return self._losses(self.parameters, *window)

        value = bits_per_byte(losses, self._windows, self.dataset.held_out_bytes, self.config.data.batch)
        count = len(self.dataset.held_out)
        print(f"step {self.progress.step}: {value:.4f} bits per byte on {count} held-out modules", flush=True)
        self._note(bits_per_byte=value)
        return value

    def save(self) -> None:
        self.progress.pipeline = self._iterator.get_state()
        self._checkpoints.save(self.parameters, self.state, self.progress)
        (self.folder / "curve.json").write_text(json.dumps(self.progress.curve) + "\n", "utf-8")

    def close(self) -> None:
        """Waits until the last checkpoint is on the disk."""
        self._checkpoints.close()

    def _note(self, **values: float) -> None:
        p = self.progress
        self.progress.curve.append({"step": p.step, "tokens": p.tokens, "seconds": round(p.seconds, 1), **values})

    def device_line(self) -> str:
        """What the run computes on."""
        device = jax.devices()[0]
        if device.platform == "cpu":
            return f"{os.cpu_count()} CPU cores"
        return f"one {device.device_kind}"
