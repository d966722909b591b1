"""The shape of a decoder-only Transformer, in one form for every family."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: the base and one of the scalings that checkpoints use.

    The fields past `kind` mean what they mean in a Hugging Face `rope_scaling`; the ones a kind does not use are ignored
    by it. For "dynamic", `original_max_position_embeddings` is the model's `max_position_embeddings`.
    """

    theta: float = 10000.0
    kind: Literal["default", "linear", "dynamic", "yarn", "llama3"] = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A pre-norm decoder, described completely; the families translate their own files into it.

    Widths are in elements: D = `hidden_size`, H = `num_heads`, K = `num_kv_heads`, C = `head_dim`,
    F = `intermediate_size`, V = `vocab_size`, L = `num_layers`. `rope` is None for learned positions, whose table starts
    `position_offset` rows late (2 for OPT). A layer with a `sliding_window` of w lets a token attend to itself and the
    w - 1 before it.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    gated: bool = True
    rope: RopeConfig | None = RopeConfig()
    position_offset: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: tuple[int | None, ...] = ()  # one entry per layer; empty: full attention everywhere
    tie_embeddings: bool = False

    @property
    def group_size(self) -> int:
        """G, the query heads that share a K/V head."""
        return self.num_heads // self.num_kv_heads

    def window(self, layer: int) -> int | None:
        return self.sliding_window[layer] if self.sliding_window else None

    @property
    def max_context(self) -> int:
        """The longest sequence that the positions, scaled as they are, were made for."""
        if self.rope is None or self.rope.kind in ("default", "llama3"):
            return self.max_position_embeddings
        if self.rope.kind == "yarn":  # some checkpoints state the stretched length, some the original one
            return max(self.max_position_embeddings, int(self.rope.original_max_position_embeddings * self.rope.factor))
        return int(self.max_position_embeddings * self.rope.factor)
