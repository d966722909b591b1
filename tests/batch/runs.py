"""A run over doubles as the command makes one, and what its files hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orca_jax.batch.job import Job
from orca_jax.batch.paths import Paths
from orca_jax.batch.pipeline import Order, Pipeline, share
from orca_jax.batch.runner import Limits, Runner
from orca_jax.batch.sources import open_source
from orca_jax.batch.words import Counts


def line(custom_id: Any, prompt: str = "abc", url: str = "/v1/completions", **more: Any) -> str:
    known = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"prompt": prompt}}
    return json.dumps(known | more)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_batch(paths: Paths, answerer: Any, *, settings: dict[str, Any] | None = None, restart: bool = False,
              limits: Limits | None = None, order: Order | None = None, kind: str | None = None,
              watch: Callable[[Runner, Counts], None] = lambda runner, counts: None) -> Counts:  # fmt: skip
    """A whole run, as the command makes one."""
    found, decode = open_source(
        paths.source, kind, url="/v1/completions", prompt_field="prompt", defaults={"max_tokens": 7}
    )
    with Job(paths, {"digest": found.digest, **(settings or {})}, restart=restart) as job:
        if job.complete:
            return job.counts
        job.counts.total = share(len(found), order or Order())
        source = Pipeline(found, decode, answerer, done=job.done, order=order, threads=2)
        runner = Runner(
            iter(source), answerer, job, counts=job.counts, names=job.names, limits=limits, unit=found.unit,
            progress=lambda counts: watch(runner, counts),
        )  # fmt: skip
        try:
            if runner.run():
                found.check_unchanged()
                job.finish(job.counts)
        finally:
            source.close()
            found.close()
        return job.counts
