"""Text to token ids and back, over the `tokenizers` library and nothing that would run a checkpoint's code."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Encoding

from orca_jax.core import checks
from orca_jax.core.errors import CheckpointError, RequestError
from orca_jax.text.pieces import Pieces, pieces_of
from orca_jax.text.template import ChatTemplate
from orca_jax.text.tokenizer_files import TokenizerFiles, quietly, read_folder

KEPT_TEMPLATES = 8
LONG = 4096  # characters, or tokens: beyond that the library is called so that other threads run meanwhile
FIRST_LOOK = 8  # characters per allowed token that are encoded before a long text is encoded whole


class Tokenizer:
    """A checkpoint's tokenizer. Nothing but caches changes after construction, so threads may share it.

    `vocab_size` is the largest token id plus one. `eos_id` and `bos_id` are None where the checkpoint names none.
    `chat_templates` maps names to jinja sources; `specials` maps names such as "eos_token" to their text.
    """

    def __init__(self, files: TokenizerFiles):
        self.backend = files.backend
        self.vocab_size = files.size
        self.specials = dict(files.specials)
        self.chat_templates = dict(files.chat_templates)
        added = files.backend.get_added_tokens_decoder()
        self.added_ids = frozenset(added)
        self.special_ids = frozenset(token for token, entry in added.items() if entry.special)
        self.pieces: Pieces | None = pieces_of(files.decoder, files.backend.id_to_token)
        self._texts: dict[int, str] = {}
        self._templates: dict[str, ChatTemplate] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Load tokenizer.json (or vocab.json and merges.txt) of a checkpoint; raises `CheckpointError`."""
        return cls(read_folder(Path(folder)))

    @property
    def eos_id(self) -> int | None:
        return self._special_id("eos_token")

    @property
    def bos_id(self) -> int | None:
        return self._special_id("bos_token")

    def _special_id(self, name: str) -> int | None:
        return self.backend.token_to_id(self.specials[name]) if name in self.specials else None

    def check_vocabulary(self, num_embeddings: int) -> None:
        """Refuse a tokenizer with ids for which the model has no row; `num_embeddings` is the rows it has."""
        if self.vocab_size > num_embeddings:
            raise CheckpointError(
                f"the tokenizer has ids up to {self.vocab_size - 1}, but the model embeds only {num_embeddings} "
                "tokens; the tokenizer is another model's, or tokens were added without resizing the embedding"
            )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; the checkpoint's post-processor says which special tokens (BOS) surround it."""
        checks.text("prompt", text)
        return quietly(
            lambda: self._encoding(text, add_special_tokens).ids,
            "the tokenizer cannot encode this text", RequestError,
        )  # fmt: skip

    def encode_at_most(self, text: str, most: int, add_special_tokens: bool = True) -> tuple[list[int], bool]:
        """Encode `text`, or only so much of it as shows that it has far more than `most` tokens.

        Returns the ids and whether they are the whole text's. Memory stays proportional to `most`, whatever was sent:
        prefixes of doubling length are tried, and one with over twice as many tokens as allowed settles it.
        """
        length = FIRST_LOOK * max(most, 512)
        while length < len(text):
            ids = self.encode(text[:length], add_special_tokens)
            if len(ids) > 2 * most:
                return ids, False
            length *= 2
        return self.encode(text, add_special_tokens), True

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids of no token (padding rows of the embedding) have none."""
        checks.in_vocabulary("token_ids", ids, 2**31)
        return quietly(
            lambda: self._text(ids, skip_special_tokens),
            "the tokenizer cannot decode these ids", RequestError,
        )  # fmt: skip

    def _encoding(self, text: str, add_special_tokens: bool) -> Encoding:
        """The library holds the interpreter's lock over a single text, half a second for a megabyte; not over a batch."""
        if len(text) <= LONG:
            return self.backend.encode(text, add_special_tokens=add_special_tokens)
        return self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]

    def _text(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        if len(ids) <= LONG:
            return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return self.backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0]

    def token_text(self, token: int) -> str:
        """Text of one token by itself, for log-probabilities: a leading space is kept, half a character is U+FFFD."""
        text = self._texts.get(token)
        if text is None:
            data = self.decode([token], False) if self.pieces is None else self.pieces[token].decode(errors="replace")
            text = self._texts[token] = data
        return text

    def token_texts(self, tokens: Iterable[int]) -> list[str]:
        return [self.token_text(token) for token in tokens]

    def template(self, source: str) -> ChatTemplate:
        """The compiled template of jinja `source`; the last few are kept."""
        found = self._templates.get(source)
        if found is None:
            if len(self._templates) >= KEPT_TEMPLATES:
                self._templates = {}  # replaced, not emptied: another thread may be reading it
            found = self._templates[source] = ChatTemplate(source)
        return found

    def statistics(self) -> dict[str, int]:
        return {"vocab_size": self.vocab_size, "special_ids": len(self.special_ids), "cached_texts": len(self._texts)}
