"""Every setting of the server, once: flags, TOML files and tests read this table."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from orca_jax.core.config import EngineConfig
from orca_jax.core.errors import ConfigError
from orca_jax.core.settings import check_settings, setting

MIN_KEY_LENGTH = 8
DEFAULT_DATA = "~/.local/share/orca_jax"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How the engine is offered. Raises ConfigError for what cannot be honoured. Times are in seconds, sizes in bytes."""

    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 is every network this machine is on")
    port: int = setting(8000, "port to listen at; 0 takes a free one", 0, 65535)
    served_model_name: str | None = setting(None, "what clients call the model (default: the model as it was given)")
    api_key: str | None = setting(None, "key that every route but /health asks for; rather give it in a file")
    api_key_file: str | None = setting(None, "file with the key in its first line")
    allowed_origins: str | None = setting(None, "origins, separated by commas, whose pages may call this server")
    root_path: str | None = setting(None, "path under which a proxy offers this server")
    max_num_queued_reqs: int = setting(256, "most requests that wait for their first iteration; more get 429", 1, 2**20)
    max_num_queued_tokens: int = setting(2**20, "most prompt tokens of requests that wait; more get 429", 1, 2**40)
    request_timeout: float = setting(600.0, "longest that a request may take, queue included", 0.1, 86400.0)
    body_timeout: float = setting(
        20.0, "longest that a client may take to send a body, or to go on with an upload", 0.1, 3600.0
    )
    max_body_bytes: int = setting(4 * 2**20, "largest body", 1024, 2**30)
    shutdown_timeout: float = setting(30.0, "how long requests in flight may go on after SIGTERM", 0.0, 86400.0)
    watchdog_timeout: float = setting(120.0, "an iteration longer than this counts as hung", 0.1, 86400.0)
    trust_request_chat_template: bool = setting(False, "accept chat templates from requests (sandboxed, but code)")
    metrics_prefix: str = setting("orca_jax", "prefix of the metrics' names; 'vllm' suits existing dashboards")
    data_dir: str | None = setting(
        "auto", f"folder of uploaded files and batches; 'auto' is {DEFAULT_DATA}, 'none' keeps none"
    )
    max_data_bytes: int = setting(4 * 2**30, "most that the data folder may hold; more gets 507", 1024, 2**50)
    otlp_traces_endpoint: str | None = setting(
        None, "where OpenTelemetry spans of requests go, such as http://localhost:4318/v1/traces (orca-jax[otel])"
    )
    access_log: bool = setting(False, "log every request")
    ssl_keyfile: str | None = setting(None, "TLS key, passed to uvicorn")
    ssl_certfile: str | None = setting(None, "TLS certificate, passed to uvicorn")
    ssl_ca_certs: str | None = setting(None, "certificates of whom clients' own must come from, passed to uvicorn")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.api_key is not None and self.api_key_file is not None:
            raise ConfigError("api_key and api_key_file are both given (drop one: --api-key-file keeps it out of ps)")
        if self.api_key is not None:
            check_key(self.api_key, "api_key")
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ConfigError("TLS needs both ssl_certfile and ssl_keyfile (--ssl-certfile FILE --ssl-keyfile FILE)")
        if not self.metrics_prefix.isidentifier():
            raise ConfigError(f"metrics_prefix = {self.metrics_prefix!r} is no name (--metrics-prefix vllm)")

    @property
    def key(self) -> str | None:
        """The API key, read from its file where there is one. Raises ConfigError."""
        if self.api_key_file is None:
            return self.api_key
        try:
            lines = Path(self.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read api_key_file {self.api_key_file}: {error}") from error
        key = lines[0].strip() if lines else ""
        check_key(key, f"the first line of {self.api_key_file}")
        return key

    @property
    def origins(self) -> list[str]:
        return [] if self.allowed_origins is None else [part.strip() for part in self.allowed_origins.split(",")]


def check_key(key: str, where: str) -> None:
    """Refuse a key that could be guessed or not be sent."""
    if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} must be at least {MIN_KEY_LENGTH} printable ASCII characters without spaces")


def split_settings(settings: Mapping[str, object]) -> tuple[ServerConfig, EngineConfig]:
    """Settings of both kinds, from one file or command line, each to its own. Raises ConfigError."""
    mine = {spec.name for spec in fields(ServerConfig)}
    server = {name: value for name, value in settings.items() if name in mine}
    engine = {name: value for name, value in settings.items() if name not in mine}
    return ServerConfig(**server), EngineConfig.from_settings(engine)  # type: ignore[arg-type]
