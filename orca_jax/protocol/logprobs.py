"""Log-probabilities in the two forms that OpenAI's clients read."""

from collections.abc import Sequence
from typing import Any

from orca_jax.core.outputs import Logprob
from orca_jax.text.tokenizer import Tokenizer

Entry = dict[int, Logprob]
LOWEST = -9999.0  # JSON has no minus infinity


class TokenNames:
    """How tokens are called in an answer: by their text, or as `token_id:N` where the client asked for that."""

    def __init__(self, tokenizer: Tokenizer | None, as_ids: bool):
        self._tokenizer = tokenizer
        self._as_ids = as_ids or tokenizer is None

    def name(self, token: int) -> str:
        if self._as_ids or self._tokenizer is None:
            return f"token_id:{token}"
        return self._tokenizer.token_text(token)

    def data(self, token: int) -> list[int]:
        """The token's bytes: of half a character, those it has."""
        if self._tokenizer is None:
            return []
        pieces = self._tokenizer.pieces
        return list(self._tokenizer.token_text(token).encode() if pieces is None else pieces[token])

    def text(self, token: int) -> str:
        return "" if self._tokenizer is None else self._tokenizer.token_text(token)


class CompletionLogprobs:
    """The parallel lists of /v1/completions, counted on over the chunks of a stream. `offset` is in characters."""

    def __init__(self, names: TokenNames, asked: int, offset: int = 0):
        self._names = names
        self._asked = asked
        self._offset = offset

    def of(self, tokens: Sequence[int], entries: Sequence[Entry | None]) -> dict[str, Any]:
        """The next tokens; an entry is None for a prompt's first token, which nothing predicts."""
        offsets, likely = [], []
        for token, entry in zip(tokens, entries, strict=True):
            offsets.append(self._offset)
            self._offset += len(self._names.text(token))
            likely.append(None if entry is None else self._likely(token, entry))
        return {
            "text_offset": offsets,
            "token_logprobs": [
                None if e is None else finite(e[t].logprob) for t, e in zip(tokens, entries, strict=True)
            ],
            "tokens": [self._names.name(token) for token in tokens],
            "top_logprobs": likely,
        }

    def _likely(self, token: int, entry: Entry) -> dict[str, float]:
        """The most likely tokens and the one that was taken; of two with one text, the likelier counts."""
        found: dict[str, float] = {}
        for other, item in entry.items():
            if other == token or (item.rank or 0) <= self._asked:
                name = self._names.name(other)
                found[name] = max(finite(item.logprob), found.get(name, LOWEST))
        return found


def chat_logprobs(names: TokenNames, asked: int, tokens: Sequence[int], entries: Sequence[Entry]) -> dict[str, Any]:
    """`{"content": [...]}`: for each token its text, bytes and log-probability, and the `asked` most likely ones."""
    content = []
    for token, entry in zip(tokens, entries, strict=True):
        ranked = sorted(entry.items(), key=lambda pair: pair[1].rank or 0)
        top = [_chat_entry(names, other, item) for other, item in ranked if (item.rank or 0) <= asked]
        content.append({**_chat_entry(names, token, entry[token]), "top_logprobs": top})
    return {"content": content, "refusal": None}


def prompt_logprobs(entries: Sequence[Entry | None] | None) -> list[dict[str, Any] | None] | None:
    """As vLLM shows them: for each prompt token an object from token id to its log-probability, rank and text."""
    if entries is None:
        return None
    return [
        None
        if entry is None
        else {
            str(token): {"logprob": finite(item.logprob), "rank": item.rank, "decoded_token": item.decoded_token}
            for token, item in entry.items()
        }
        for entry in entries
    ]


def finite(value: float) -> float:
    return max(value, LOWEST)


def _chat_entry(names: TokenNames, token: int, item: Logprob) -> dict[str, Any]:
    return {"token": names.name(token), "logprob": finite(item.logprob), "bytes": names.data(token)}
