import pytest

from orca_jax.train.schedule import Schedule, progress


def test_it_warms_up_stays_and_decays_to_zero():
    schedule = Schedule(warmup=0.1, decay=0.4)
    heights = [schedule.height(share) for share in (0.0, 0.05, 0.1, 0.3, 0.6, 0.8, 1.0)]
    assert heights == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])
    assert Schedule(warmup=0.0, decay=0.0).height(0.0) == 1.0


def test_a_run_is_measured_in_steps_or_in_minutes():
    assert progress(step=5, steps=20, seconds=1e9, minutes=1.0) == 0.25
    assert progress(step=5, steps=None, seconds=90.0, minutes=2.0) == 0.75
    assert progress(step=5, steps=None, seconds=900.0, minutes=2.0) == 1.0
