"""The precisions in which a device may compute the steps of an adaptation."""

from enum import StrEnum


class Precision(StrEnum):
    """What products of matrices and convolutions of a step are computed in.

    Everything else is float32 in all of them: parameters, alphas and shares, the statistics and
    sums of mixtures, prototypes, losses, the optimizer, and what leaves.
    """

    FLOAT32 = "float32"
    """The default."""
    TF32 = "tf32"
    """Factors are rounded to 10 bits on the way into a GPU's tensor cores; no effect on a CPU."""
    BF16 = "bf16"
    """Activations, and the weights that they meet, have 8 bits: stem and cells under autocast."""
