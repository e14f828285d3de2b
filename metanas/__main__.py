"""`python -m metanas`: meta-training from the command line."""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metanas import data
from metanas.checkpoint import save_checkpoint
from metanas.config import RunConfig, read_config
from metanas.episodes import with_rotations
from metanas.errors import MetanasError
from metanas.runs import Best, card_of, load_snapshot, save_snapshot
from metanas.train import MetaTrainer
from metanas.train import Progress as Seen


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 2 for an input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m metanas", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="meta-train a supernet and write a checkpoint")
    train.add_argument("config", type=Path, help="TOML configuration; see configs/")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on from the run's last snapshot")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one value (TOML)"
    )
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config, options.set)
        return _train(config, options.out or Path("runs") / config.name, options.resume)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2


def _train(config: RunConfig, folder: Path, resume: bool) -> int:
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    spec = config.input
    load = lambda split: data.load(  # noqa: E731
        config.data.path, split, size=spec.size, channels=spec.channels
    )
    classes = load(config.data.train_split)
    classes = with_rotations(classes) if config.data.rotations else classes
    trainer = MetaTrainer(config, classes, load(config.data.val_split))
    best = load_snapshot(folder, trainer) if resume else Best()
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder, f"start at iteration {trainer.iteration}")
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[seen]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("train", total=config.train.iterations, seen="")
        while trainer.iteration < config.train.iterations:
            seen = trainer.iterate()
            bar.update(task, completed=seen.iteration, seen=f"loss {seen.loss:.3f}")
            if not math.isnan(seen.pruned):
                best = _keep(folder, trainer, seen, best)
    print(f"best pruned validation accuracy {best.accuracy:.4f}, in {folder / 'checkpoint'}")
    return 0


def _keep(folder: Path, trainer: MetaTrainer, seen: Seen, best: Best) -> Best:
    line = (
        f"{seen.iteration} loss {seen.loss:.4f} candidates {seen.candidates} "
        f"soft {seen.soft:.4f} pruned {seen.pruned:.4f}"
    )
    write_log(folder, line)
    if seen.pruned > best.accuracy:
        best = Best(seen.pruned, seen.iteration)
        save_checkpoint(folder / "checkpoint", card_of(trainer), trainer.supernet, trainer.meta)
    save_snapshot(folder, trainer, best)
    return best


def write_log(folder: Path, line: str) -> None:
    with (folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


if __name__ == "__main__":
    sys.exit(main())
