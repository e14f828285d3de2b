"""Gather the public names of the core, which `metanas` loads when one of them is first used."""

from pathlib import Path

from metanas.adaptation.job import AdaptedModel
from metanas.adaptation.scheduler import make_model as adapt
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.data import load as load_dataset
from metanas.errors import InvalidInput, MetanasError, Violation
from metanas.evaluation.evaluate import EpisodeShape, evaluate
from metanas.spec.examples import Example, Limits
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.report import Report

__all__ = [
    "AdaptConfig",
    "AdaptedModel",
    "Checkpoint",
    "EpisodeShape",
    "Example",
    "Genotype",
    "InvalidInput",
    "Limits",
    "MetanasError",
    "Report",
    "adapt",
    "evaluate",
    "load_checkpoint",
    "load_dataset",
    "read_folder",
]


def read_folder(folder: Path) -> list[Example]:
    """Read a support set: one sub-folder for each class, named by its label.

    Folders and files are read in the order of their names; hidden ones are left out.

    Raises:
        InvalidInput: NO_EXAMPLES, the folder has no sub-folder with a file.
    """
    paths = [path for path in sorted(folder.glob("[!.]*/[!.]*")) if path.is_file()]
    if not paths:
        message = f"{folder} holds no images; make a sub-folder of images for each class"
        raise InvalidInput([Violation("examples", "NO_EXAMPLES", message)])
    return [Example(path.parent.name, path.read_bytes()) for path in paths]
