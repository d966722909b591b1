"""`scripts/soak`: the soak against a server of its own, round by round, and one table of verdicts."""

import argparse
import asyncio
import itertools
import sys
from collections.abc import Callable, Mapping

from orca_jax.bench.served import scrape, serving
from orca_jax.bench.soak import PATH, Plan, Soak
from orca_jax.bench.soak_checks import Checker, collect
from orca_jax.bench.wire import ask
from orca_jax.core.errors import EngineError

ROUNDS = 10
SETTLED = 3  # rounds after which memory is expected to stand still: pools of threads and of memory are filled by then
MOST_GROWTH = 8 * 2**20  # bytes; a leak of one prompt or answer for each of the remaining requests is more
VIOLATIONS = ("leaks", "differs", "refused", "broken", "counters")
IDLE = {"num_requests_running": 0, "num_requests_waiting": 0, "kv_pages_reserved": 0, "compiles_after_warmup": 0}
AGAIN = 8  # bodies that are asked alone once more in the end
Row = tuple[str, str, bool]


async def soak_rounds(soak: Soak, memory: Callable[[], int], tell: Callable[[str], None]) -> list[Row]:
    """The whole soak. Returns what was checked, what was found, and whether that is right."""
    await soak.alone()
    before = await idle_metrics(soak.address)
    sizes, seconds, counts = [], 0.0, soak.checker.counts
    for number in range(ROUNDS):
        seconds += await soak.together(soak.plan.requests // ROUNDS)
        await idle_metrics(soak.address)
        sizes.append(memory())
        tell(f"round {number + 1} of {ROUNDS}: {dict(counts)}, {sizes[-1] / 2**20:.1f} MiB")
    after = await idle_metrics(soak.address)
    if after is not None and before is not None:
        for wrong in wrong_counters(
            {name: after[name] - before.get(name, 0) for name in after} | gauges(after), counts
        ):
            soak.checker.violation("counters", wrong)
    await again(soak)
    health = await ask(soak.address, "GET", "/health")
    return rows(soak.checker, seconds, sizes, health.status, after)


async def idle_metrics(address: str) -> dict[str, float] | None:
    """The metrics once nothing runs any more; a token made last of all says so where there are no metrics."""
    await ask(address, "GET", "/health_generate")
    for _ in range(200):
        found = await scrape(address)
        if found is None or not found["num_requests_running"] + found["num_requests_waiting"]:
            return found
        await asyncio.sleep(0.05)
    return found


async def again(soak: Soak) -> None:
    """After all that, an ordinary request still gets its usual answer."""
    for key, body in itertools.islice(soak.bodies.items(), AGAIN):
        reply = await ask(soak.address, "POST", PATH, body)
        if reply.status != 200 or collect({}, reply.json()["choices"]) != soak.checker.alone[key]:
            soak.checker.violation("differs", f"{key}, asked alone in the end: {reply.status} {reply.body!r}")


def gauges(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those values that are no counts since the start."""
    return {name: metrics[name] for name in IDLE}


def wrong_counters(counted: Mapping[str, float], seen: Mapping[str, int]) -> list[str]:
    """Where a server's counters, idle and since the soak began, contradict what its clients have seen.

    A client that leaves does not know what the server had done for it by then, so those counts have two bounds.
    """
    wrong = [f"{name} is {counted[name]:g} when idle" for name, value in IDLE.items() if counted[name] != value]
    ends = {name.split(" ")[1]: value for name, value in counted.items() if name.startswith("request_success ")}
    whole = ends.get("stop", 0) + ends.get("length", 0)
    if not seen["answers"] <= whole <= seen["answers asked"]:
        wrong.append(f"{whole:g} answers ended, clients got {seen['answers']} of {seen['answers asked']} asked for")
    if sum(ends.values()) > seen["answers asked"] + ROUNDS + 1 or ends.get(
        "error", 0
    ):  # each round asks /health_generate
        wrong.append(f"answers ended as {ends}, {seen['answers asked']} were asked for")
    if counted["generation_tokens"] < seen["tokens"]:
        wrong.append(f"{counted['generation_tokens']:g} tokens were made, clients got {seen['tokens']}")
    return wrong


def rows(
    checker: Checker, seconds: float, sizes: list[int], health: int, metrics: Mapping[str, float] | None
) -> list[Row]:
    counts, settled, last = checker.counts, sizes[min(SETTLED, len(sizes)) - 1], sizes[-1]
    counters = "the server offers no /metrics" if metrics is None else f"{counts['counters']} wrong"
    pages = (
        "engine's own check when idle" if metrics is None else f"{metrics['kv_pages_reserved']:g} reserved when idle"
    )
    return [
        ("requests", f"{counts['requests']} in {seconds:.0f} s", counts["requests"] > 0),
        ("answers finished", f"{counts['finished']} requests, {counts['tokens']} tokens", counts["finished"] > 0),
        ("clients that left", f"{counts['left']}", counts["left"] > 0),
        ("own secret in the answer", f"{counts['own secret seen']}", counts["own secret seen"] > 0),
        ("another's secret in an answer", f"{counts['leaks']}", not counts["leaks"]),
        ("answers unlike those alone", f"{counts['differs']}", not counts["differs"]),
        ("refused or broken", f"{counts['refused']} and {counts['broken']}", not counts["refused"] + counts["broken"]),
        ("counters", counters, not counts["counters"]),
        ("pages", f"{pages}, /health {health}", health == 200),
        ("memory", f"{settled / 2**20:.1f} MiB after round {SETTLED}, {last / 2**20:.1f} in the end",
         last - settled <= MOST_GROWTH),
    ]  # fmt: skip


def table(found: list[Row]) -> str:
    lines = ["| what | found | verdict |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {what} | {value} | {'ok' if ok else 'WRONG'} |" for what, value, ok in found)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=24, help="length of each answer")
    parser.add_argument("--seconds", type=float, help="end each round after so long, even before its requests are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("server", nargs="*", help="more flags for orca-jax serve, after --")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 where anything was wrong."""
    plan = Plan(args.clients, args.requests, args.tokens, args.seconds, seed=args.seed)
    with serving(["--deterministic", "--served-model-name", "soak", *args.server]) as served:
        soak = Soak(served.address, "soak", plan)
        found = asyncio.run(soak_rounds(soak, served.resident_bytes, lambda line: print(line, file=sys.stderr)))
        status = served.end()
    found.append(("exit status of the server", str(status), status == 0))
    print(table(found))
    for example in soak.checker.examples:
        print(f"- {example}")
    return 0 if all(ok for _, _, ok in found) else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="a soak with planted secrets")
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except (EngineError, OSError) as error:
        print(f"scripts/soak: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
