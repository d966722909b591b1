"""Calls answered by a whole engine over the fake executor, without a server."""

import pytest

from orca_jax.core.config import EngineConfig
from orca_jax.protocol.call import Envelope, Numbering
from orca_jax.protocol.calls import parse_call
from orca_jax.testing.fake_engine import build_fake_engine
from orca_jax.testing.tiny_tokenizer import write_tokenizer

ENVELOPE = Envelope("cmpl-1", 1700000000, "fake")


class Desk:
    """Serves bodies one at a time."""

    def __init__(self, built):
        self.built = built
        self._arrived = 0

    def answer(self, url, body):
        call, requests, outputs = self.serve(url, body)
        last = {output.request_id: output for output in outputs if output.finished}
        return call.answer(requests, [last[request.request_id] for request in requests], ENVELOPE, self.built.door)

    def chunks(self, url, body):
        call, requests, outputs = self.serve(url, body)
        streamer = call.streamer(requests, ENVELOPE, self.built.door)
        return [
            *streamer.begin(),
            *(chunk for output in outputs for chunk in streamer.push(output)),
            *streamer.finish(),
        ]

    def serve(self, url, body):
        call = parse_call(url, body)
        requests = call.requests(self.built.door, Numbering(f"r{self._arrived}", self._arrived, 0.0))
        self._arrived += len(requests)
        for request in requests:
            self.built.engine.add_request(request)
        outputs = []
        while self.built.engine.has_unfinished:
            outputs += self.built.engine.step()
        return call, requests, outputs


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    built = build_fake_engine(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), EngineConfig(default_max_tokens=9))
    yield Desk(built)
    built.engine.check()
    built.close()
