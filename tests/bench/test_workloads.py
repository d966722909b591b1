"""The workloads are what others were measured on, so that the numbers stand beside theirs."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from orca_jax.bench.workloads import find_workloads, load_workloads, read_workload
from orca_jax.core.errors import ConfigError

# name: requests, tokens in, tokens out, digest of the requests
KNOWN = {
    "w1_orca": (64, 17_625, 4_184, "cb56fcf79b20692e"),
    "w2_decode": (32, 1_024, 8_192, "8198cc6bb30c8599"),
    "w3_single": (1, 128, 128, "53c0fc6fc36a9d2f"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_seeded_requests_never_change(name: str):
    workload = load_workloads()[name]
    requests = asdict(workload)["requests"]
    digest = hashlib.sha256(json.dumps(requests).encode()).hexdigest()[:16]
    assert (len(requests), workload.tokens_in, workload.tokens_out, digest) == KNOWN[name]


def test_a_written_workload_reads_back(tmp_path: Path):
    workload = load_workloads()["w1_orca"]
    path = workload.write(tmp_path)
    assert read_workload(path) == workload == find_workloads([str(path)])[0]


def test_an_unknown_workload_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'w9' is neither a file nor one of w1_orca, w2_decode, w3_single"):
        find_workloads(["w9"])


def test_a_slip_in_the_file_is_refused(tmp_path: Path):
    path = tmp_path / "workloads.toml"
    path.write_text("[one]\nseed = 1\nrequest = 2\n")
    with pytest.raises(ConfigError, match=r"'request' is not a parameter of .*\[one\] \(did you mean 'requests'"):
        load_workloads(path)
    path.write_text("[one]\nseed = 1\nrequests = 2\n")
    with pytest.raises(ConfigError, match="lacks prompt_len, output_len, tokens"):
        load_workloads(path)
