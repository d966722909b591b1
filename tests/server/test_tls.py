"""TLS is uvicorn's; the flags have to reach it."""

import shutil
import ssl
import subprocess

import httpx
import pytest

from orca_jax.core.errors import ConfigError
from orca_jax.server.config import ServerConfig


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_https(serving, certificate):
    key, cert = certificate
    with serving(ssl_keyfile=str(key), ssl_certfile=str(cert)) as running:
        assert running.address.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"{running.address}/health", verify=context).status_code == 200


def test_one_half_is_refused():
    with pytest.raises(ConfigError, match="both ssl_certfile and ssl_keyfile"):
        ServerConfig(ssl_certfile="cert.pem")
