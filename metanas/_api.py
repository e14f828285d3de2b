"""Gather the public names of the core, which `metanas` loads when one of them is first used."""

from pathlib import Path

from metanas.adaptation.job import AdaptedModel
from metanas.adaptation.scheduler import adapt
from metanas.adaptation.universal import UniversalSpace, load_universal
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import InvalidInput, MetanasError, Violation
from metanas.evaluation.evaluate import evaluate
from metanas.export.variants import convert
from metanas.spec.examples import Example, Limits
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.variant import Variant
from metanas_data.datasets.dataset import read_dataset as load_dataset
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.folders import class_files
from metanas_data.report import Report

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
    "UniversalSpace",
    "Variant",
    "adapt",
    "convert",
    "evaluate",
    "load_checkpoint",
    "load_dataset",
    "load_universal",
    "read_folder",
]


def read_folder(folder: Path) -> list[Example]:
    """Read a support set: one sub-folder for each class, named by its label.

    Folders and files are read in the order of their names. Hidden ones, and those that operating
    systems leave behind, are left out.

    Raises:
        InvalidInput: FOLDER_UNREADABLE; FOLDER_LAYOUT, for each entry that is out of place and for
            each class that is given twice; NO_EXAMPLES, no sub-folder has a file.
    """
    try:
        files, faults = class_files(folder)
        if faults:
            raise InvalidInput(
                Violation("support", "FOLDER_LAYOUT", f"{path}: {message}")
                for path, message in faults
            )
        examples = [
            Example(label, path.read_bytes(), str(path))
            for label, paths in files.items()
            for path in paths
        ]
    except OSError as error:
        message = f"{error.filename} cannot be read: {error.strerror}"
        raise InvalidInput.single("support", "FOLDER_UNREADABLE", message) from error
    if not examples:
        message = f"{folder} holds no images; make a sub-folder of images for each class"
        raise InvalidInput.single("examples", "NO_EXAMPLES", message)
    return examples
