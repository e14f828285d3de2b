"""Adapt the architecture and the weights of a small network to a few labelled images.

```python
import metanas

space = metanas.load_universal(Path("meta_checkpoints"))
model = metanas.adapt(space, metanas.read_folder(Path("examples/digits/support")), seed=0)
Path("model.onnx").write_bytes(model.onnx)
```

The public names load when they are first used (PEP 562), so `import metanas` needs no torch.
"""

TYPE_CHECKING = False  # the import of `typing` would take longer than that of this package
if TYPE_CHECKING:
    from metanas._api import (
        AdaptConfig,
        AdaptedModel,
        Checkpoint,
        EpisodeShape,
        Example,
        Genotype,
        InvalidInput,
        Limits,
        MetanasError,
        Report,
        Sampler,
        UniversalSpace,
        Variant,
        adapt,
        convert,
        evaluate,
        load_checkpoint,
        load_dataset,
        load_universal,
        read_folder,
    )

__version__ = "0.1.0"

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
    "__version__",
    "adapt",
    "convert",
    "evaluate",
    "load_checkpoint",
    "load_dataset",
    "load_universal",
    "read_folder",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'metanas' has no attribute {name!r}")
    import metanas._api

    return getattr(metanas._api, name)
