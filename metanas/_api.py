"""Gather the public names of the core, which `metanas` loads when one of them is first used."""

from pathlib import Path

from metanas.adaptation.job import AdaptedModel
from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import InvalidInput, MetanasError, Violation
from metanas.evaluation.evaluate import evaluate
from metanas.spec.examples import Example, Limits
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.report import Report
from metanas_data.datasets.dataset import read_dataset as load_dataset
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.folders import is_litter, repeated_classes

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
    "Sampler",
    "adapt",
    "evaluate",
    "load_checkpoint",
    "load_dataset",
    "read_folder",
]


def read_folder(folder: Path) -> list[Example]:
    """Read a support set: one sub-folder for each class, named by its label.

    Folders and files are read in the order of their names. Hidden ones, and those that operating
    systems leave behind, are left out.

    Raises:
        InvalidInput: NO_EXAMPLES, the folder has no sub-folder with a file; or DUPLICATE_LABEL, for
            each sub-folder that repeats a class.
    """
    classes = [path for path in _entries(folder) if path.is_dir()]
    repeated = [
        Violation(f"classes[{classes.index(path)}]", "DUPLICATE_LABEL", message)
        for path, message in repeated_classes(classes)
    ]
    if repeated:
        raise InvalidInput(repeated)
    paths = [path for each in classes for path in _entries(each) if path.is_file()]
    if not paths:
        message = f"{folder} holds no images; make a sub-folder of images for each class"
        raise InvalidInput([Violation("examples", "NO_EXAMPLES", message)])
    return [Example(path.parent.name, path.read_bytes()) for path in paths]


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if not is_litter(path.name))
