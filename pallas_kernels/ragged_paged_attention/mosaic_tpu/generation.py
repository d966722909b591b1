"""Which TPU a target is, in the words that tables are keyed by."""

from pallas_kernels.ragged_paged_attention.target import Target

NAMES = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}
TOO_OLD = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")
OLDEST = "v5e"


def generation(target: Target) -> str:
    """The short name of a TPU's generation, its maker's for one newer than these; the oldest for what is no TPU."""
    return NAMES.get(target.kind, target.kind) if target.platform == "tpu" else OLDEST


def why_not(target: Target) -> str | None:
    """Why the kernels cannot run on a target; None where they can."""
    if target.platform != "tpu":
        return "it needs a TPU (elsewhere only interpret=True runs it)"
    if target.kind in TOO_OLD:
        return f"it needs a TPU {OLDEST} or newer"
    return None
