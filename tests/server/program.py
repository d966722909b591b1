"""A server over the fake executor as a process of its own, for what only a process has: signals, exit statuses, ends.

`python program.py TOKENIZER_FOLDER SECONDS_PER_ITERATION|fails [name=value ...]`; prints its address when it listens.
"""

import sys
import time
from pathlib import Path

from orca_jax.core.config import EngineConfig
from orca_jax.observe.ledger import Ledger
from orca_jax.server.config import ServerConfig
from orca_jax.server.run import bind, serve
from orca_jax.server.service import Service
from orca_jax.server.waiting_room import WaitingRoom
from orca_jax.testing.fake_engine import build_fake_engine


def main(folder, delay, *settings):
    values = dict(setting.split("=", 1) for setting in settings)
    config = ServerConfig(port=0, **{name: float(value) for name, value in values.items()})
    room = WaitingRoom(config.max_num_queued_reqs, config.max_num_queued_tokens)
    ledger = Ledger()
    built = build_fake_engine(Path(folder), EngineConfig(max_num_seqs=4), [room, ledger])
    collect = built.engine.executor.collect

    def slowly():
        time.sleep(float(delay))  # what is no number is a device that fails
        return collect()

    built.engine.executor.collect = slowly
    return serve(Service(built, config, room, ledger), bind(config), lambda address: print(address, flush=True))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
