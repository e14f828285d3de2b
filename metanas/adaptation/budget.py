"""The budget of a job: the costs of models before they are made, and the choice that fits.

The prior gives shares to branches. Without a budget those with a small share are pruned. With a
budget that this model exceeds, the set of branches with the largest share that fits is taken; a
pruned branch may then return.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from metanas.adaptation.metrics import meta_model, query_macs, weights_of
from metanas.adaptation.universal import (
    Choice,
    Source,
    UniversalSpace,
    branches_of,
    choice_of,
    choose,
)
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput
from metanas.export.metadata import conformance_pixels
from metanas.export.onnx_model import to_onnx
from metanas.images.shifted_copies import looks
from metanas.images.support_set import Image
from metanas.spec.budget import (
    LEAST_WAYS,
    Footprint,
    check_reachable,
    footprint_of,
    limits_of,
    too_small,
)
from metanas.spec.card import CheckpointCard
from metanas.spec.options import AdaptConfig

METADATA = 8192
"""Most bytes of the head's nodes and of the metadata, beside labels, logits and images."""
LOGIT = 20
"""Most bytes of a logit of the conformance image."""


@dataclass(frozen=True)
class Budget:
    """The limits of a job on the costs of its model."""

    source: Source
    options: AdaptConfig

    @property
    def limits(self) -> dict[str, float]:
        """The limits by the name of the cost; empty without a budget."""
        return limits_of(self.options)

    def check(self) -> None:
        """Check that some model of two classes meets the limits.

        Raises:
            InvalidInput: BUDGET_TOO_SMALL, PROFILE_MISSING.
        """
        source = self.source
        if not self.limits:
            return
        if isinstance(source, Checkpoint):
            footprints = [_footprint_of_checkpoint(source, self.options)]
        else:
            check_reachable(source.universal, _cards(source), self.options)
            names = source.universal.branches
            footprints = [self._footprint(source, [name], METADATA) for name in names]
        if not any(each.fits(self.limits) for each in footprints):
            raise too_small(footprints, self.limits)

    def choose(self, images: Sequence[Image], labels: Sequence[str]) -> Choice:
        """Choose the networks of a model within the limits.

        Raises:
            InvalidInput: BUDGET_TOO_SMALL.
        """
        source, limits = self.source, self.limits
        if isinstance(source, Checkpoint) or not limits:
            return choose(source, images, labels)
        classes, prior = list(dict.fromkeys(labels)), source.shares(images, labels)

        def footprint(names: Sequence[str]) -> Footprint:
            metadata = _metadata_bytes(source, names, images[0], classes)
            return self._footprint(source, names, metadata, len(classes))

        def fits(names: Sequence[str]) -> bool:
            return footprint(names).fits(limits)

        kept = branches_of(source.universal, prior)
        least = source.universal.config.least_share
        shares = kept if fits(list(kept)) else largest_fitting(prior, least, fits)
        if not shares:
            raise too_small([footprint([name]) for name in prior], limits)
        left_out = sum(share for name, share in kept.items() if name not in shares)
        return replace(choice_of(source, prior, shares), over_budget=left_out)

    def check_model(self, macs: int, parameters: int, size: int) -> None:
        """Check the finished model, whose architecture and file may differ from the estimate.

        size: bytes of the file.

        Raises:
            InvalidInput: BUDGET_TOO_SMALL.
        """
        limits = {name: limit for name, limit in self.limits.items() if name != "milliseconds"}
        footprint = Footprint(macs=macs, parameters=parameters, bytes=size)
        if not footprint.fits(limits):
            raise too_small([footprint], limits)

    def _footprint(
        self, source: UniversalSpace, names: Sequence[str], metadata: int, ways: int = LEAST_WAYS
    ) -> Footprint:
        """Compute the costs of a model of these branches; those of its file only for a limit."""
        copies = looks(self.options.shift_pixels)
        known = footprint_of(source.universal, _cards(source), names, ways=ways, looks=copies)
        if "bytes" not in self.limits:
            return known
        overhead = sum(source.overheads[name] for name in names)
        features = sum(source.branches[name].card.space.features for name in names)
        numbers = known.parameters + ways * features  # `Known` has a mean vector a class
        return replace(known, bytes=4 * numbers + overhead + metadata)


def largest_fitting(
    prior: Mapping[str, float], least: float, fits: Callable[[Sequence[str]], bool]
) -> dict[str, float]:
    """Return the shares of the branches within a budget, whose sum is 1; nothing if none fits.

    All sets count in which each branch has a share of `least` or more; that with the largest total
    is taken.
    """
    best: dict[str, float] = {}
    for count in range(1, len(prior) + 1):
        for names in combinations(prior, count):
            total = sum(prior[name] for name in names)
            ample = count == 1 or min(prior[name] for name in names) >= least * total
            if ample and (not best or total > sum(best.values())) and fits(names):
                best = {name: prior[name] for name in names}
    total = sum(best.values())
    return {name: share / total if total else 1 / len(best) for name, share in best.items()}


def _footprint_of_checkpoint(checkpoint: Checkpoint, options: AdaptConfig) -> Footprint:
    """Measure a model of two classes with the meta-architecture of a checkpoint.

    Raises:
        InvalidInput: PROFILE_MISSING.
    """
    if options.max_milliseconds:
        message = (
            "the table of milliseconds is of the universal search space; name no checkpoint, or "
            "limit max_macs"
        )
        raise InvalidInput.single("options.max_milliseconds", "PROFILE_MISSING", message)
    classifier, task = meta_model(checkpoint, options.shift_pixels)
    return Footprint(
        macs=query_macs(classifier, [task]),
        parameters=weights_of(classifier),
        bytes=to_onnx(classifier, checkpoint.ops, {}).ByteSize(),
    )


def _metadata_bytes(
    source: UniversalSpace, names: Sequence[str], image: Image, classes: Sequence[str]
) -> int:
    """Estimate the bytes of the metadata of a model of these branches."""
    inputs = [source.branches[name].card.input for name in names]
    channels = max(each.channels for each in inputs)
    pixels = conformance_pixels(image, max(each.size for each in inputs))
    encoded = 4 * -(-pixels * channels // 3)
    labels = len(json.dumps(classes, ensure_ascii=False).encode())
    return METADATA + encoded + labels + LOGIT * len(classes)


def _cards(source: UniversalSpace) -> dict[str, CheckpointCard]:
    return {name: each.card for name, each in source.checkpoints.items()}
