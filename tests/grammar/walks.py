"""A random walk through a grammar: a model with nothing in mind."""

import numpy as np

from orca_jax.core.structured_outputs import StructuredOutputsParams


def allowed(matcher, words) -> list[int]:
    line = np.zeros(words, np.int32)
    matcher.fill(line)
    return np.flatnonzero(np.unpackbits(line.view(np.uint8), bitorder="little")).tolist()


def walk(compiler, tokenizer, seed, most=200, eos_ids=(0,), **asked) -> tuple[str, bool]:
    """The text of random allowed tokens, and whether it came to its end."""
    grammar = compiler.compile(StructuredOutputsParams(**asked))
    matcher, random = grammar.matcher(eos_ids), np.random.default_rng(seed)
    tokens: list[int] = []
    for _ in range(most):
        token = int(random.choice(allowed(matcher, grammar.words)))
        if token in eos_ids:
            return tokenizer.decode(tokens, False), True
        tokens.append(token)
        matcher.accept(token)
        if matcher.finished:
            return tokenizer.decode(tokens, False), True
    return tokenizer.decode(tokens, False), False
