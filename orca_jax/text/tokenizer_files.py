"""Reading a checkpoint's tokenizer from its folder, and refusing what is missing, damaged, unsafe or contradictory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from orca_jax.core.errors import CheckpointError

T = TypeVar("T")

MAX_TOKENIZER_BYTES = 128 * 2**20
MAX_CONFIG_BYTES = 16 * 2**20
NAMED_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the folder says: the library's tokenizer, text of the named special tokens, and named chat templates.

    `decoder` is the decoder's own description (None if there is none); `size` is the largest token id plus one.
    """

    backend: tokenizers.Tokenizer
    decoder: Mapping[str, Any] | None
    size: int
    specials: Mapping[str, str]
    chat_templates: Mapping[str, str]


def read_folder(folder: Path) -> TokenizerFiles:
    """Load `folder`'s tokenizer. Raises `CheckpointError` that names the file."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a tokenizer is a folder with a tokenizer.json")
    config = read_settings(folder, "tokenizer_config.json")
    declared = read_settings(folder, "special_tokens_map.json") | {k: v for k, v in config.items() if v is not None}
    specials = _special_texts(folder, declared)
    if has(folder, "tokenizer.json"):
        path = folder / "tokenizer.json"
        text = read_text(path, MAX_TOKENIZER_BYTES)
        description = _check_ids(path, _parse(path, text))
        backend = quietly(lambda: tokenizers.Tokenizer.from_str(text), f"{path} cannot be loaded")
        del text
    elif has(folder, "vocab.json") and has(folder, "merges.txt"):
        backend = _byte_level_bpe(folder, config, specials)
        description = _check_ids(folder / "vocab.json", json.loads(backend.to_str()))
    else:
        raise CheckpointError(_what_is_there(folder))
    _declare_added(folder, backend, config)
    _declare_specials(folder, backend, specials, config)
    backend.no_truncation()
    backend.no_padding()
    _probe_patterns(folder, backend)
    return TokenizerFiles(
        backend, description.get("decoder"), _size(backend, description), specials, _chat_templates(folder, config)
    )


def has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def quietly(call: Callable[[], T], message: str, error: type[Exception] = CheckpointError) -> T:
    """Run a call of the tokenizers library; whatever it raises, Rust panics included, becomes one `error`."""
    try:
        return call()
    except Exception as cause:
        raise error(f"{message}: {str(cause)[:200]}") from cause
    except BaseException as cause:
        if type(cause).__name__ != "PanicException":  # of pyo3, derived from BaseException and importable from nowhere
            raise
        raise error(f"{message}: {str(cause)[:200]}") from None


def read_text(path: Path, limit: int) -> str:
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path} has {size} bytes; at most {limit} are accepted for such a file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_settings(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object that may be missing, and then is empty."""
    return _parse(folder / name, read_text(folder / name, MAX_CONFIG_BYTES)) if has(folder, name) else {}


def _parse(path: Path, text: str) -> dict[str, Any]:
    if text.startswith("version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, where a JSON object is expected")
    return value


def _what_is_there(folder: Path) -> str:
    config = read_settings(folder, "tokenizer_config.json")
    convert = "convert it once with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model"):
        if has(folder, name):
            return f"{folder} has only {name}, which is not supported, and no tokenizer.json; {convert}"
    if "auto_map" in config or any(folder.glob("tokenization_*.py")):
        return f"{folder} has only a tokenizer written in Python, whose code is never run; {convert}"
    return f"{folder} has no tokenizer.json (nor vocab.json with merges.txt)"


def _check_ids(path: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Refuse ids that mean two things, before the library quietly renumbers them."""
    model, added = description.get("model"), description.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list):
        raise CheckpointError(f"{path} has no 'model' object, or its 'added_tokens' is not a list")
    vocab = model.get("vocab")
    if isinstance(vocab, list):  # unigram: [text, score], the id is the place
        vocab = {entry[0]: i for i, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < 2**31 for i in vocab.values()):
        raise CheckpointError(f"{path}: model.vocab must map token texts to ids from 0 to {2**31 - 1}")
    by_id: dict[int, str] = {}
    for text, token in vocab.items():
        if by_id.setdefault(token, text) != text:
            raise CheckpointError(f"{path}: id {token} stands for both {by_id[token]!r} and {text!r} in model.vocab")
    for entry in added:
        token, text = (entry.get("id"), entry.get("content")) if isinstance(entry, dict) else (None, None)
        if type(token) is not int or not 0 <= token < 2**31 or not isinstance(text, str):
            raise CheckpointError(f"{path}: an entry of added_tokens lacks an id (0 to {2**31 - 1}) or its content")
        if by_id.setdefault(token, text) != text:
            raise CheckpointError(f"{path}: added_tokens gives id {token} to {text!r}, but it is {by_id[token]!r}")
        if vocab.setdefault(text, token) != token:
            raise CheckpointError(f"{path}: added_tokens gives {text!r} id {token}, but it has id {vocab[text]}")
    claimed = {entry["id"]: entry["content"] for entry in added}
    return {"decoder": description.get("decoder"), "size": max(by_id, default=-1) + 1, "added": claimed}


def _size(backend: tokenizers.Tokenizer, description: Mapping[str, Any]) -> int:
    """The largest id plus one, counting what the configuration added; checks that the library kept the file's ids."""
    for token, text in description["added"].items():
        if backend.token_to_id(text) != token:
            loaded = backend.token_to_id(text)
            raise CheckpointError(f"tokenizer.json: added_tokens gives {text!r} id {token}, but it loads as {loaded}")
    return max([description["size"] - 1, *backend.get_added_tokens_decoder()]) + 1


def _byte_level_bpe(folder: Path, config: Mapping[str, Any], specials: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The older pair of files (GPT-2, OPT): byte-level BPE, with a leading BOS only where the config asks for it."""
    names = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    for name in names:
        read_text(Path(name), MAX_TOKENIZER_BYTES)
    model = quietly(lambda: models.BPE.from_file(*names), f"{folder}: vocab.json and merges.txt cannot be loaded")
    backend = tokenizers.Tokenizer(model)
    prefix = config.get("add_prefix_space") is True
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    bos = specials.get("bos_token")
    bos_id = None if bos is None else backend.token_to_id(bos)
    if config.get("add_bos_token") is True and bos is not None and bos_id is not None:
        backend.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, bos_id)])
    return backend


def _special_texts(folder: Path, declared: Mapping[str, Any]) -> dict[str, str]:
    """Text of each named special token; the files spell them as text or as an object with `content`."""
    specials = {}
    for name in NAMED_SPECIALS:
        value = declared.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if text is None:
            continue
        if not isinstance(text, str):
            raise CheckpointError(f"{folder}: {name} of the tokenizer's configuration is no text: {text!r:.60}")
        specials[name] = text
    return specials


def _declare_added(folder: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the tokens that only `added_tokens_decoder` of tokenizer_config.json knows, at exactly the ids it states."""
    declared = config.get("added_tokens_decoder") or {}
    path = folder / "tokenizer_config.json"
    if not isinstance(declared, dict) or not all(key.isdecimal() and len(key) < 10 for key in declared):
        raise CheckpointError(f"{path}: added_tokens_decoder must map token ids to tokens")
    for token, entry in sorted((int(key), entry) for key, entry in declared.items()):
        text = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise CheckpointError(f"{path}: added_tokens_decoder has no content for id {token}")
        if backend.id_to_token(token) == text:
            continue
        if backend.token_to_id(text) is None and backend.id_to_token(token) is None:
            flags = {k: entry[k] for k in ("single_word", "lstrip", "rstrip", "normalized", "special")
                     if isinstance(entry.get(k), bool)}  # fmt: skip
            backend.add_tokens([AddedToken(text, **flags)])
        if backend.token_to_id(text) != token:
            raise CheckpointError(
                f"{path}: added_tokens_decoder gives {text!r} id {token}, but tokenizer.json has "
                f"{backend.id_to_token(token)!r} there, and id {backend.token_to_id(text)} for it"
            )


def _declare_specials(
    folder: Path, backend: tokenizers.Tokenizer, specials: Mapping[str, str], config: Mapping[str, Any]
) -> None:
    """Make the named tokens special, so that they can be skipped in the text; bos and eos must exist."""
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else extra
    texts = [t.get("content") if isinstance(t, dict) else t for t in extra] if isinstance(extra, list) else []
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    for name in ("bos_token", "eos_token"):
        if name in specials and backend.token_to_id(specials[name]) is None:
            raise CheckpointError(f"{folder}: {name} {specials[name]!r} is not in the tokenizer's vocabulary")
    for text in dict.fromkeys([*specials.values(), *texts]):
        if isinstance(text, str) and text not in known and backend.token_to_id(text) is not None:
            backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _probe_patterns(folder: Path, backend: tokenizers.Tokenizer) -> None:
    """Try the pre-tokenizer on runs of one character: a pattern that backtracks for ever shows itself here."""
    for character in ("a", "A", "1", " ", ".", "\n"):
        text = character * 48 + "!"
        quietly(partial(backend.encode, text), f"{folder}: the tokenizer fails on plain text such as {text[:8]!r}")


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name ("default" is the ordinary one); files of their own win over the configuration's entry."""
    files = {}
    if has(folder, "chat_template.jinja"):
        files["default"] = read_text(folder / "chat_template.jinja", MAX_CONFIG_BYTES)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        files[path.name.removesuffix(".jinja")] = read_text(path, MAX_CONFIG_BYTES)
    if files:
        return files
    declared = config.get("chat_template")
    if declared is None:
        return {}
    if isinstance(declared, str):
        return {"default": declared}
    entries = declared if isinstance(declared, list) else [None]
    named = {e["name"]: e["template"] for e in entries if isinstance(e, dict) and "name" in e and "template" in e}
    if len(named) != len(entries) or not all(isinstance(x, str) for pair in named.items() for x in pair):
        path = folder / "tokenizer_config.json"
        raise CheckpointError(f"{path}: chat_template is neither text nor a list of named ones")
    return named
