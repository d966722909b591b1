"""What is said where a device's own kernels do not run."""

import pytest

from pallas_kernels.ragged_paged_attention import implementation, passed_over, resolve
from pallas_kernels.ragged_paged_attention.target import Target


def on(monkeypatch: pytest.MonkeyPatch, platform: str, kind: str) -> tuple[str, str | None]:
    """What would run on a device, and the note about it."""
    monkeypatch.setattr(implementation, "current_target", lambda: Target(platform, kind))
    return resolve(), passed_over(resolve())


@pytest.mark.parametrize(
    ("platform", "kind", "note"),
    [
        (
            "gpu",
            "NVIDIA B200",
            "no mosaic_gpu on NVIDIA B200: its kernels use wgmma, which only NVIDIA's Hopper generation",
        ),
        ("gpu", "NVIDIA A100-SXM4-80GB", "no mosaic_gpu on NVIDIA A100-SXM4-80GB: its kernels use wgmma"),
        ("tpu", "TPU v4", "no mosaic_tpu on TPU v4: it needs a TPU v5e or newer"),
    ],
)
def test_an_accelerator_without_kernels_of_its_own_is_told_why(monkeypatch, platform, kind, note):
    name, said = on(monkeypatch, platform, kind)
    assert name == "xla"
    assert said is not None and said.startswith(note) and "\n" not in said


def test_there_is_nothing_to_say_where_they_run_or_could_or_on_a_cpu(monkeypatch):
    assert on(monkeypatch, "tpu", "TPU v6 lite") == ("mosaic_tpu", None)
    assert on(monkeypatch, "gpu", "NVIDIA H200") == ("mosaic_gpu", None)
    assert passed_over("xla") is None  # asked for
    assert on(monkeypatch, "cpu", "cpu") == ("xla", None)


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ({"dtype": "float32"}, "pages of bfloat16 or float16, not float32"),
        ({"head_dim": 512}, "head_dim = 512 is above 256"),
        ({"page_size": 12}, "page_size = 12 is no multiple of 8"),
    ],
)
def test_what_the_kernels_do_not_serve_is_left_to_xla_or_refused_by_name(monkeypatch, use, why):
    monkeypatch.setattr(implementation, "current_target", lambda: Target("gpu", "NVIDIA H200"))
    served = {"head_dim": 128, "page_size": 16, "dtype": "bfloat16"}
    assert resolve(**served) == "mosaic_gpu" and passed_over("mosaic_gpu", **served) is None
    assert resolve(**{**served, **use}) == "xla"
    assert why in str(passed_over("xla", **{**served, **use}))
    with pytest.raises(ValueError, match=f"'mosaic_gpu' cannot serve this: .*{why}"):
        resolve("mosaic_gpu", **{**served, **use})
