import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_jax.train.pipeline import batches, restored

END, LENGTH, WAITING = 0, 16, 32


def documents(sizes, first=1):
    """Documents whose tokens are all different, so that every token tells where it came from."""
    starts = first + np.cumsum([0, *sizes[:-1]])
    return [np.arange(start, start + size, dtype=np.uint16) for start, size in zip(starts, sizes, strict=True)]


def stream(docs, *, seed=0, batch=2, length=LENGTH):
    return iter(batches(docs, end=END, length=length, batch=batch, seed=seed, waiting=WAITING))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(a, b):
    return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


DOCS = documents([5, 40, 1, 17, 100, 16, 15, 33, 2, 9])


def test_the_seed_decides_everything():
    assert same(take(stream(DOCS), 9), take(stream(DOCS), 9))
    assert not same(take(stream(DOCS), 9), take(stream(DOCS, seed=1), 9))


@given(before=st.integers(0, 25), after=st.integers(1, 5))
@settings(max_examples=8)
def test_a_resumed_pipeline_goes_on_with_the_very_next_batch(before, after):
    """An epoch is about seven batches here, so that stops fall into the middle of several."""
    whole = stream(DOCS)
    take(whole, before)
    state = json.dumps(whole.get_state())
    resumed = stream(DOCS)
    resumed.set_state(restored(json.loads(state)))
    assert same(take(whole, after), take(resumed, after))


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8))
@settings(max_examples=8)
def test_every_target_is_the_token_after_its_input_in_the_same_document(sizes):
    docs = documents(sizes)
    follows = {(int(a), int(b)) for doc in docs for a, b in zip([END, *doc], [*doc, END], strict=True)}
    for batch in take(stream(docs), 5):
        assert batch["inputs"].shape == batch["targets"].shape == batch["segments"].shape == (2, LENGTH)
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
        pairs = zip(batch["inputs"].ravel().tolist(), batch["targets"].ravel().tolist(), strict=True)
        assert set(pairs) <= follows


def test_a_segment_is_one_document():
    owner = {int(token): i for i, doc in enumerate(DOCS) for token in doc}
    for batch in take(stream(DOCS), 12):
        for inputs, segments in zip(batch["inputs"], batch["segments"], strict=True):
            assert (segments >= 1).all()
            for segment in np.unique(segments):
                owners = {owner[int(token)] for token in inputs[segments == segment] if token != END}
                assert len(owners) <= 1
                assert (inputs[segments == segment][1:] != END).all()


def test_no_token_is_lost_and_epochs_are_shuffled_differently():
    docs = documents([LENGTH - 1] * WAITING)  # with its end each fills a window exactly, and an epoch what is waiting
    first, second = (
        np.concatenate([batch["targets"] for batch in epoch])
        for epoch in np.array_split(take(stream(docs), WAITING), 2)
    )
    for epoch in (first, second):
        counts = np.bincount(epoch.ravel(), minlength=1 + WAITING * (LENGTH - 1))
        assert (counts[1:] == 1).all() and counts[END] == WAITING
    order = [epoch[:, 0].tolist() for epoch in (first, second)]
    assert order[0] != order[1] != sorted(order[1])


def test_documents_shorter_than_a_window_are_packed_without_padding():
    docs = documents([3] * 40)
    [batch] = take(stream(docs, batch=4), 1)
    assert [np.unique(row).size for row in batch["segments"]] == pytest.approx([4, 4, 4, 4])
