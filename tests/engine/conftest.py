"""An engine over the fake executor, for every test of the loop."""

import pytest

from orca_jax.core.clock import ManualClock
from orca_jax.engine.engine import Engine
from orca_jax.engine.output import OutputProcessor
from orca_jax.scheduling.kv_manager import KVManager
from orca_jax.scheduling.scheduler import Scheduler
from orca_jax.testing.fake_executor import FakeExecutor, FakeModel


def build(
    max_batch_size=4,
    *,
    depth=1,
    lookahead=0,
    num_pages=64,
    page_size=2,
    eos_every=None,
    model=None,
    policy=None,
    executor_type=FakeExecutor,
    clock=None,
    observers=(),
    **switches,
):
    """`policy` makes an admission policy from the K/V manager; `switches` are the scheduler's."""
    kv = KVManager(num_pages, page_size, max_batch_size * (depth + lookahead))
    admission = None if policy is None else policy(kv)
    scheduler = Scheduler(kv, max_batch_size, lookahead=lookahead, admission=admission, **switches)
    model = FakeModel(eos_every=eos_every) if model is None else model
    executor = executor_type(model, num_pages, page_size, kv.num_slots, depth)
    return Engine(scheduler, executor, OutputProcessor(None), clock=clock or ManualClock(), observers=observers)


@pytest.fixture
def make_engine():
    return build
