"""A strict floor under every test: CPU only, eight virtual devices, no silent broadcasting between ranks.

These are set in the environment, before anything imports jax, so that tests of the host tower never pay for jax and
the processes that tests start inherit it.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# libtpu compiles for described TPUs; it would ask a metadata server about this machine, and would be loaded once on it
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip
os.environ["JAX_ENABLE_X64"] = "0"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["XLA_FLAGS"] = " ".join(
    flag for flag in (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8") if flag
)

# A suite that is started in the background inherits an ignored Ctrl-C, which the tests of it would wait for in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Compiling makes single examples slow, and a shared machine makes all of them slow: a deadline would test the machine.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.register_profile("thorough", parent=settings.get_profile("ci"), derandomize=False, max_examples=1000)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full`, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="only with --full"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests want said in every run: `record_property("said", text)`, which reaches here from other processes, too."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, text in report.user_properties:
            if name == "said":
                terminalreporter.write_line(str(text))
