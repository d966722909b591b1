"""The soak with planted secrets in short, over the model that ships in the package. The long one is scripts/soak."""

import asyncio

import jax
import pytest

from orca_jax.bench.soak import Plan, Soak
from orca_jax.bench.soak_run import soak_rounds
from orca_jax.core.config import EngineConfig
from orca_jax.engine.build import build_engine
from orca_jax.observe.ledger import Ledger
from orca_jax.server.config import ServerConfig
from orca_jax.server.service import Service
from orca_jax.server.waiting_room import WaitingRoom
from tests.server.conftest import listening

PLAN = Plan(clients=16, requests=80, tokens=16)


@pytest.fixture
def running():
    config = ServerConfig(port=0, served_model_name="demo")
    room = WaitingRoom(config.max_num_queued_reqs, config.max_num_queued_tokens)
    ledger = Ledger()
    built = build_engine(EngineConfig(deterministic=True, max_num_seqs=8, max_model_len=256), observers=[room, ledger])
    with listening(Service(built, config, room, ledger)) as running:
        yield running


def test_secrets_stay_where_they_were_planted(running):
    soak = Soak(running.address, "demo", PLAN)
    arrays = []

    def live_arrays():
        running.wait_until_idle()
        arrays.append(len(jax.live_arrays()))
        return arrays[-1]

    verdicts = asyncio.run(soak_rounds(soak, live_arrays, lambda line: None))
    assert all(ok for _, _, ok in verdicts), (verdicts, soak.checker.examples)
    assert soak.checker.counts["requests"] == PLAN.requests
    assert soak.checker.counts["own secret seen"] >= 10, "the model no longer copies, so nothing could leak"
    assert len(set(arrays[2:])) == 1, arrays
    statistics = running.engine(lambda engine: engine.statistics())
    assert statistics["compiles_after_warm_up"] == 0
    assert statistics["requests"] == 0
    assert running.service.room.rejections == {"max_num_queued_reqs": 0, "max_num_queued_tokens": 0}
