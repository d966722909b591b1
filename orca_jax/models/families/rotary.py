"""Rotary settings in both spellings: `rope_theta` with `rope_scaling`, and the newer `rope_parameters`."""

from orca_jax.core.errors import CheckpointError
from orca_jax.models.config import RopeConfig
from orca_jax.models.families.base import MAX_POSITIONS
from orca_jax.models.fields import Fields

KINDS = {kind: kind for kind in ("default", "linear", "dynamic", "yarn", "llama3")}
TOLERATED = {"type", "rope_type", "rope_theta", "finetuned", "partial_rotary_factor"}
USED: dict[str, set[str]] = {
    "default": {"factor", "original_max_position_embeddings"},  # meaningless there, and harmless
    "linear": {"factor", "original_max_position_embeddings"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "yarn": {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
             "mscale_all_dim", "truncate"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
}  # fmt: skip


def read_rope(fields: Fields, max_positions: int) -> RopeConfig:
    """The rotary embedding that a config.json describes. Raises CheckpointError on what it does not know."""
    fields.expect("partial_rotary_factor", 1.0, "the whole head is rotated")
    fields.expect("rope_interleaved", False, "pairs are made of a head's two halves")
    old, new = fields.inner("rope_scaling"), fields.inner("rope_parameters")
    if old is not None and new is not None and old.values != new.values:
        raise CheckpointError(f"{fields.source}: rope_scaling and rope_parameters differ: keep one of them")
    scaling = new or old or Fields({}, fields.source)
    scaling.expect("partial_rotary_factor", 1.0, "the whole head is rotated")
    theta = _theta(fields, scaling)
    kind = _kind(scaling)
    unknown = sorted(set(scaling.values) - TOLERATED - USED[kind])
    if unknown:
        raise CheckpointError(f"{scaling.source}: {unknown[0]} is not a setting of rope type {kind!r}")
    if kind == "default":
        return RopeConfig(theta=theta)
    return _scaled(scaling, kind, theta, max_positions)


def _theta(fields: Fields, scaling: Fields) -> float:
    found = [place for place in (scaling, fields) if "rope_theta" in place.values]
    values = {place.number("rope_theta", least=1.0 + 1e-6, most=1e12) for place in found}
    if len(values) > 1:
        raise CheckpointError(f"{fields.source}: rope_theta has two values, {sorted(values)}: keep one of them")
    return values.pop() if values else 10000.0


def _kind(scaling: Fields) -> str:
    names = [key for key in ("rope_type", "type") if key in scaling]
    kinds = {scaling.choice(key, KINDS) for key in names}
    if len(kinds) > 1:
        raise CheckpointError(f"{scaling.source}: rope_type and type differ, {sorted(kinds)}: keep one of them")
    if not kinds and set(scaling.values) - {"rope_theta"}:
        raise CheckpointError(f"{scaling.source}: rope_type is missing")
    return kinds.pop() if kinds else "default"


def _scaled(scaling: Fields, kind: str, theta: float, max_positions: int) -> RopeConfig:
    factor = scaling.number("factor", least=1.0, most=1e6)
    # the dynamic rule is defined by max_position_embeddings itself, whatever else is written beside it
    original = max_positions
    if kind != "dynamic":
        original = scaling.integer("original_max_position_embeddings", max_positions, most=MAX_POSITIONS)
    if kind == "yarn":
        return _yarn(scaling, theta, factor, original)
    if kind == "llama3":
        low = scaling.number("low_freq_factor", least=1e-6)
        high = scaling.number("high_freq_factor", least=1e-6)
        if low >= high:
            raise scaling.error("low_freq_factor", f"less than high_freq_factor = {high:g} is needed")
        return RopeConfig(theta, "llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
    return RopeConfig(theta, "linear" if kind == "linear" else "dynamic", factor, original)


def _yarn(scaling: Fields, theta: float, factor: float, original: int) -> RopeConfig:
    fast = scaling.number("beta_fast", 32.0, least=1e-3)
    slow = scaling.number("beta_slow", 1.0, least=1e-3)
    if slow > fast:
        raise scaling.error("beta_slow", f"at most beta_fast = {fast:g} is needed")
    return RopeConfig(
        theta, "yarn", factor, original, beta_fast=fast, beta_slow=slow,
        attention_factor=_optional(scaling, "attention_factor"),
        mscale=_optional(scaling, "mscale"),
        mscale_all_dim=_optional(scaling, "mscale_all_dim"),
        truncate=scaling.flag("truncate", True),
    )  # fmt: skip


def _optional(scaling: Fields, key: str) -> float | None:
    return scaling.number(key, least=1e-6, most=1e3) if key in scaling else None
