"""A training run as a TOML file: the shape, the data, the update, the schedule. Unknown keys are errors."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from orca_jax.core.errors import ConfigError, nearest
from orca_jax.models.config import DecoderConfig, RopeConfig


@dataclass(frozen=True, slots=True)
class ShapeConfig:
    """The Llama shape to train. Names and meaning as in `DecoderConfig`."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 704
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def decoder(self, vocab_size: int | None = None) -> DecoderConfig:
        """The decoder's configuration; a tokenizer smaller than `vocab_size` may shrink it."""
        return DecoderConfig(
            family="llama",
            vocab_size=vocab_size or self.vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_position_embeddings,
            norm_eps=self.norm_eps,
            rope=RopeConfig(theta=self.rope_theta),
            tie_embeddings=True,
        )


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is read and how it is cut. `batch` windows of `max_position_embeddings` tokens make one update.

    `windows` are (share of the run, tokens that attention sees from then on): most is learnt from near context, and
    short windows are cheaper. Each length divides `max_position_embeddings`.
    """

    seed: int = 0
    held_out: float = 0.02
    conversation_share: float = 0.05
    batch: int = 8
    windows: tuple[tuple[float, int], ...] = ((0.0, 256), (0.5, 512), (0.85, 1024))

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.windows]
        if not starts or starts[0] != 0.0 or starts != sorted(starts):
            raise ConfigError(f"data.windows begin at {starts}, but shares of the run that ascend from 0.0 are needed")

    def window_at(self, behind: float) -> int:
        """The tokens that attention sees when the share `behind` of the run is done."""
        return [length for start, length in self.windows if behind >= start][-1]


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    matrix_learning_rate: float = 0.02
    learning_rate: float = 0.004
    adam_b2: float = 0.98
    weight_decay: float = 0.05
    clip_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class RunConfig:
    """When it ends and how often it looks up. Warm-up and decay are shares of the whole run; times are in minutes."""

    seed: int = 0
    minutes: float = 60.0
    steps: int | None = None
    warmup: float = 0.02
    decay: float = 0.35
    evaluate_every: float = 10.0
    checkpoint_every: float = 4.0
    print_every_steps: int = 20
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    model: ShapeConfig = field(default_factory=ShapeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        longest = self.model.max_position_embeddings
        for _, length in self.data.windows:
            if length < 1 or longest % length:
                raise ConfigError(f"data.windows names {length} tokens, but a divisor of {longest} is needed")


SECTIONS: dict[str, type] = {"model": ShapeConfig, "data": DataConfig, "optimizer": OptimizerConfig, "run": RunConfig}


def load_config(file: Path) -> TrainConfig:
    """The configuration in a TOML file; every key is optional, an unknown one is refused with the nearest known."""
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the training configuration {file}: {error}") from error
    return parse_config(tables)


def parse_config(tables: dict[str, Any]) -> TrainConfig:
    parts = {}
    for section, values in tables.items():
        if section not in SECTIONS:
            raise ConfigError(f"unknown section [{section}]{nearest(section, SECTIONS)}; known: {', '.join(SECTIONS)}")
        kind = SECTIONS[section]
        known = [f.name for f in fields(kind)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown key {section}.{key}{nearest(key, known)}; known: {', '.join(known)}")
        parts[section] = kind(**values)
    return TrainConfig(**parts)
