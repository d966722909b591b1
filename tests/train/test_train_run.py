import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orca_jax.core.errors import ConfigError
from orca_jax.models.load import load_model
from orca_jax.train.finish import finish
from orca_jax.train.loop import Trainer
from orca_jax.train.main import main
from orca_jax.train.model import initial_parameters
from orca_jax.train.optimizer import optimizer
from orca_jax.train.step import make_update


@pytest.fixture(scope="module")
def finished(small_config, small_dataset, tmp_path_factory):
    """A whole run of 20 updates and the losses of each."""
    trainer = Trainer(small_config, small_dataset, tmp_path_factory.mktemp("run"))
    losses = follow(trainer)
    before = trainer.evaluate()
    assert trainer.run()
    trainer.close()
    return trainer, losses, before


def follow(trainer):
    """The list that every further update's loss is put into."""
    losses, update = [], trainer.update

    def noted():
        losses.append(update())
        return losses[-1]

    trainer.update = noted
    return losses


def test_twenty_updates_learn_something(finished):
    trainer, losses, before = finished
    assert len(losses) == trainer.progress.step == 20
    assert trainer.progress.tokens == 20 * 4 * 64
    assert abs(losses[0] - np.log(512)) < 0.3
    assert np.mean(losses[-3:]) < losses[0] - 0.4
    assert trainer.progress.curve[-1]["bits_per_byte"] < 0.95 * before


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(finished, small_config, small_dataset, tmp_path):
    uninterrupted, expected, _ = finished
    first = Trainer(small_config, small_dataset, tmp_path)
    first._updates = uninterrupted._updates  # compiling it once is enough
    losses = follow(first)
    update = first.update

    def stop_after_seven():
        loss = update()
        if first.progress.step == 7:
            first.interrupt()
        return loss

    first.update = stop_after_seven
    assert not first.run()
    first.close()
    assert len(losses) == 7

    second = Trainer(small_config, small_dataset, tmp_path)
    second._updates = uninterrupted._updates
    second.resume()
    rest = follow(second)
    assert second.run()
    second.close()
    assert losses + rest == expected
    assert json.loads((tmp_path / "curve.json").read_text())[-1]["step"] == 20


def test_nothing_to_resume_is_said(small_config, small_dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing to resume in .*checkpoints; start without --resume"):
        Trainer(small_config, small_dataset, tmp_path).resume()


def test_a_new_run_does_not_mix_with_an_old_one(finished, small_config, small_dataset):
    with pytest.raises(ConfigError, match="holds a run at step 20; go on with --resume, or name another --run"):
        Trainer(small_config, small_dataset, finished[0].folder).refuse_old_run()


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    assert main(["--library", str(tmp_path), "--run", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("train_demo: no Python sources under")


def test_a_batch_is_cut_into_shorter_windows(small_config):
    decoder, update = small_config.model.decoder(), optimizer(small_config.optimizer)
    parameters = jax.eval_shape(lambda: initial_parameters(decoder, 0))
    state = jax.eval_shape(update.init, parameters)
    batch = {name: jax.ShapeDtypeStruct((4, 64), jnp.int32) for name in ("inputs", "targets", "segments")}
    height = jax.ShapeDtypeStruct((), jnp.float32)

    def scores(length):
        lowered = make_update(decoder, update, jnp.dtype("float32"), length).lower(parameters, state, batch, height)
        return lowered.as_text()

    assert "tensor<4x2x2x64x64xf32>" in scores(64)
    short = scores(32)
    assert "tensor<8x2x2x32x32xf32>" in short and "x64x64xf32>" not in short


def test_the_exported_folder_is_the_trained_model(finished, small_library, tmp_path):
    trainer, _, _ = finished
    facts = finish(trainer, tmp_path, small_library)
    assert facts["bits_per_byte"] == pytest.approx(trainer.progress.curve[-1]["bits_per_byte"], rel=0.01)
    assert f"**{facts['bits_per_byte']:.3f}**" in (tmp_path / "README.md").read_text()
    assert (trainer.folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    loaded = load_model(tmp_path)
    assert loaded.config == trainer.decoder and loaded.dtype == jnp.bfloat16
    assert loaded.info.eos_token_ids == (0,)
    expected = {name: np.asarray(weight).astype(jnp.bfloat16) for name, weight in trainer.parameters.items()}
    for name, weight in expected.items():
        part = loaded.model
        for key in name.split("."):
            part = part[int(key)] if key.isdigit() else getattr(part, key)
        np.testing.assert_array_equal(np.asarray(part[...]), weight, err_msg=name)


def test_parameters_are_named_as_the_decoder_names_them(small_config):
    decoder = small_config.model.decoder()
    parameters = jax.eval_shape(lambda: initial_parameters(decoder, 0))
    assert parameters["layers.0.attention.qkv.weight"].shape == (2, 4, 8, 32)
    assert parameters["embedding"].shape == (512, 32) and len(parameters) == 8
