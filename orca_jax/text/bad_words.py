"""Words that must not be written, as the token sequences that would write them."""

from collections.abc import Sequence

from orca_jax.core.errors import RequestError
from orca_jax.core.sampling_params import MAX_BAD_WORD_TOKENS
from orca_jax.text.tokenizer import Tokenizer


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Token sequences of each word at the start of a text and, where that differs, after a space (vLLM's rule).

    The second form counts only if the space went into the first token: same length, another first token. Otherwise it
    is the first form behind a token for the space, and forbidding that one is enough.
    """
    sequences: list[tuple[int, ...]] = []
    for word in words:
        bare = tuple(tokenizer.encode(word.lstrip(), add_special_tokens=False))
        if not bare:
            raise RequestError(f"bad_words holds {word!r:.60}, which has no tokens of its own.", "bad_words")
        sequences.append(bare)
        spaced = tuple(tokenizer.encode(" " + word.lstrip(), add_special_tokens=False))
        if len(spaced) == len(bare) and spaced[0] != bare[0]:
            sequences.append(spaced)
        if len(bare) > MAX_BAD_WORD_TOKENS:
            raise RequestError(
                f"bad_words holds {word!r:.60}, which is {len(bare)} tokens long, but at most {MAX_BAD_WORD_TOKENS} can "
                "be forbidden in a row: shorten it.",
                "bad_words",
            )
    return tuple(dict.fromkeys(sequences))
