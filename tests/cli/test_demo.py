"""`orca-jax demo` over the fake engine: prompts arrive over time, all are answered, the timeline is drawn."""

import re

from orca_jax.cli.demo import load_arrivals
from orca_jax.cli.main import main
from orca_jax.core.resources import configs_dir


def test_the_demo_s_requests_are_a_dozen_of_mixed_lengths_over_time():
    arrivals = load_arrivals(configs_dir() / "demo" / "requests.toml")
    assert len(arrivals) >= 12
    assert len({arrival.at for arrival in arrivals}) == len(arrivals)
    assert len({arrival.max_tokens for arrival in arrivals}) >= 8
    lengths = sorted(len(arrival.prompt) for arrival in arrivals)
    assert lengths[0] * 10 < lengths[-1]


def test_the_demo_answers_all_and_draws(builds, capsys, tmp_path):
    out_dir = tmp_path / "out"
    assert main(["demo", "--max-model-len", "2048", "--out", str(out_dir)]) == 0
    out, err = capsys.readouterr()
    arrivals = load_arrivals(configs_dir() / "demo" / "requests.toml")
    finished = re.findall(
        r"^request (\d+): \d+ prompt tokens, (\d+) new, iterations (\d+) to (\d+) \(\w+\)$", out, re.MULTILINE
    )
    assert sorted(int(number) for number, *_ in finished) == list(range(len(arrivals)))
    for number, new, begun, ended in finished:
        assert int(new) <= arrivals[int(number)].max_tokens and int(begun) == arrivals[int(number)].at < int(ended)
    assert [number for number, *_ in finished] != sorted((number for number, *_ in finished), key=int)
    for glyph in "█▓─·":
        assert glyph in out
    assert "compiled after warm-up: 0 programs" in out and "tokens/s" in out
    assert builds[0].config.max_num_seqs == 8
    assert (out_dir / "timeline.png").read_bytes().startswith(b"\x89PNG") and str(out_dir) in err
