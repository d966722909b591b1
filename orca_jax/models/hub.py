"""Fetching a checkpoint from the Hugging Face Hub: one revision for weights, config, tokenizer and template together."""

import re
from pathlib import Path

from orca_jax.core.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DESCRIPTIONS = ["*.json", "tokenizer*", "*.jinja", "*.txt"]
WEIGHTS = ["model*.safetensors"]
UNWANTED = ["original/*", "*/*.safetensors"]
TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}|(?i:bearer\s+)\S+")


def fetch(name: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """The local folder of a Hub id's snapshot, and its commit. Downloads what the cache has not, `weights` if wanted.

    A branch or tag is resolved to a commit once, so that no file can come from another. Raises CheckpointError.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(
            f"{name} is no local folder, and fetching it from the Hub needs huggingface_hub (pip install 'orca-jax[hub]')"
        ) from error
    where = f"{name}" if revision is None else f"{name} at revision {revision}"
    try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=DESCRIPTIONS + (WEIGHTS if weights else []),
            ignore_patterns=UNWANTED,
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{where} is gated: accept its licence on the Hub and log in (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the Hub has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"{where}: the Hub has no such model, or it is private") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where} is neither a local folder nor in the Hub's cache, and the Hub cannot be reached"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise CheckpointError(f"{where} could not be fetched from the Hub: {redact(str(error))}") from error
    return Path(folder), Path(folder).name


def redact(text: str) -> str:
    """One line of at most 200 characters without anything that looks like a token."""
    return TOKEN.sub("[token]", " ".join(text.split()))[:200]
