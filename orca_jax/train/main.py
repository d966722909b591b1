"""`scripts/train_demo`: trains the demo model and writes the folder that ships inside the package."""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path

from tokenizers import Tokenizer

from orca_jax.core.errors import OrcaError
from orca_jax.train.config import TrainConfig, load_config
from orca_jax.train.corpus import library_root
from orca_jax.train.dataset import build_dataset
from orca_jax.train.finish import finish
from orca_jax.train.loop import Trainer

ROOT = Path(__file__).resolve().parents[2]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_demo", description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/train/demo.toml")
    parser.add_argument("--run", type=Path, default=Path("out/train_demo"), help="checkpoints, tokenizer and curve")
    parser.add_argument("--library", type=Path, default=None, help="sources to train on (this interpreter's library)")
    parser.add_argument("--minutes", type=float, default=None, help="wall time of the whole run (config: 60)")
    parser.add_argument("--resume", action="store_true", help="continue the newest checkpoint in --run")
    parser.add_argument("--export", type=Path, default=None, help="where the finished model is written (RUN/model)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    try:
        return train(arguments(argv))
    except OrcaError as error:
        print(f"train_demo: {error}", file=sys.stderr)
        return 2


def train(args: argparse.Namespace) -> int:
    """The whole run, to the exported folder; 130 where it was interrupted."""
    config = load_config(args.config)
    if args.minutes is not None:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, minutes=args.minutes, steps=None))
    library = args.library or library_root()
    trainer = prepare(config, args.run, library, resume=args.resume)
    signal.signal(signal.SIGTERM, lambda *_: trainer.interrupt())
    signal.signal(signal.SIGINT, lambda *_: trainer.interrupt())
    finished = trainer.run()
    trainer.close()
    if not finished:
        print(f"interrupted at step {trainer.progress.step}; go on with --resume", flush=True)
        return 130
    folder = args.export or args.run / "model"
    facts = finish(trainer, folder, library)
    print(f"{folder}: {facts['bits_per_byte']:.4f} bits per byte as shipped, {facts['bytes'] / 1e6:.1f} MB", flush=True)
    return 0


def prepare(config: TrainConfig, folder: Path, library: Path, *, resume: bool) -> Trainer:
    """A trainer with its data read; the tokenizer is trained once and then belongs to the run."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    dataset = build_dataset(config, library, Tokenizer.from_file(str(file)) if resume else None)
    dataset.tokenizer.save(str(file))
    trainer = Trainer(config, dataset, folder)
    if resume:
        trainer.resume()
    else:
        trainer.refuse_old_run()
    weights = sum(weight.size for weight in trainer.parameters.values())
    print(
        f"{weights / 1e6:.2f} M parameters on {trainer.device_line()}; {sum(map(len, dataset.train)) / 1e6:.2f} M tokens in "
        f"{len(dataset.train)} documents, {len(dataset.held_out)} modules held out",
        flush=True,
    )
    return trainer


if __name__ == "__main__":
    raise SystemExit(main())
