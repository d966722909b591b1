"""Every iteration that the limits allow finds a bucket, and no bucket is wider than it has to be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_jax.execution.buckets import Bucket, bucket_list, pinned_bucket, smallest


@given(st.integers(1, 300), st.integers(1, 4096), st.data())
def test_every_allowed_iteration_fits(rows, tokens, data):
    buckets = bucket_list(rows, tokens)
    r = data.draw(st.integers(1, rows))
    t = data.draw(st.integers(r, max(rows, tokens)))
    bucket = smallest(buckets, t, r)
    assert bucket.tokens >= t and bucket.rows >= r
    assert not [b for b in buckets if r <= b.rows and t <= b.tokens < bucket.tokens]


@given(st.integers(1, 300), st.integers(1, 4096))
def test_the_list_is_short_sorted_and_has_no_more_rows_than_tokens(rows, tokens):
    buckets = bucket_list(rows, tokens)
    assert list(buckets) == sorted(set(buckets))
    assert len(buckets) <= 25
    assert all(b.rows <= b.tokens for b in buckets)
    assert all(4 <= b.tokens <= max(4, rows, tokens) for b in buckets)


def test_the_lists_people_will_see():
    sizes = [(4, 4), (8, 8), (16, 16), (32, 16), (64, 16), (128, 16), (256, 16)]
    assert bucket_list(16, 256) == tuple(Bucket(*size) for size in sizes)
    assert len(bucket_list(256, 2048)) == 16


def test_an_increment_only_iteration_pays_for_its_rows_only():
    assert smallest(bucket_list(16, 256), 5, 5) == Bucket(8, 8)


def test_deterministic_mode_has_one_bucket():
    assert pinned_bucket(16) == (Bucket(64, 64),)
    assert pinned_bucket(100) == (Bucket(100, 100),)


def test_what_fits_nowhere_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="300 tokens in 2 rows"):
        smallest(bucket_list(16, 256), 300, 2)
