"""The schedule of the search: when the alphas learn, and which candidates stay."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.supernet.alphas import ALPHA_PREFIX, CellAlpha
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import Softmax
from metanas.supernet.supernet import Supernet
from metanas.training.config import FIXED, RunConfig, SearchConfig

SHARPEST = 0.1
"""Factor on the last step's temperature at the end of a run with `sharpen`."""
CHOSEN = 10.0
"""Logit of the pairs of a fixed genotype; the others have 0."""


def searching(config: RunConfig, iteration: int) -> bool:
    """Return True if the alphas learn in this meta-iteration."""
    return config.search.relaxation != FIXED and iteration >= config.search.warm_up


def search_at(config: RunConfig, iteration: int) -> SearchConfig:
    """Return the settings of the search in this meta-iteration; `sharpen` changes them."""
    search = config.search
    if not search.sharpen:
        return search
    left = cosine(iteration / config.train.iterations)
    end = search.temperature_end * (SHARPEST + (1 - SHARPEST) * left)
    return replace(search, temperature_end=end, noise=search.noise * left)


def cosine(passed: float) -> float:
    """Return a factor that falls from 1 to 0 while the share `passed` grows to 1."""
    return 0.5 * (1 + math.cos(math.pi * passed))


def fix(supernet: Supernet, params: Params, genotype: Genotype) -> None:
    """Restrict the candidates to a genotype and give its pairs the largest logits, in place."""
    ops = supernet.space.ops
    for kind in CELL_KINDS:
        cell, alpha = genotype.cell(kind), supernet.cell_alpha(kind)
        pairs = params[f"{ALPHA_PREFIX}{kind}.inputs"].split(alpha.pair_counts)
        alpha.alive.copy_(torch.zeros_like(alpha.alive))
        alpha.alive[:, 0] = True  # edges outside the genotype need a candidate too
        edge = 0
        for node, ((left, _), (right, _)) in enumerate(cell):
            pairs[node].zero_()
            pairs[node][alpha.pairs_of[node].index((left, right))] = CHOSEN
            for source, name in cell[node]:
                alpha.alive[edge + source] = False
                alpha.alive[edge + source, ops.index(name)] = True
            edge += node + 2


def settle(supernet: Supernet, params: Params, search: SearchConfig) -> None:
    """Keep the best candidates of every edge, and limit the distances of their alphas, in place.

    A few task-optimizer steps can cross the span between an alpha and the best one. So adaptation
    can still choose, and the noise on the alphas still trains all candidates.
    """
    for kind in CELL_KINDS:
        alpha = supernet.cell_alpha(kind)
        logits = params[f"{ALPHA_PREFIX}{kind}.ops"]
        ranked = _ranked(alpha, logits)
        best = ranked.topk(min(search.keep, ranked.shape[1]), dim=1).indices
        alpha.alive &= torch.zeros_like(alpha.alive).scatter(1, best, True)
        floor = ranked.max(dim=1, keepdim=True).values - search.op_span
        torch.maximum(logits, floor, out=logits)
        for pairs in params[f"{ALPHA_PREFIX}{kind}.inputs"].split(alpha.pair_counts):
            pairs.clamp_(min=float(pairs.max()) - search.pair_span)


def prune(supernet: Supernet, params: Mapping[str, Tensor], search: SearchConfig) -> None:
    """Drop candidates of small weight at the last temperature, except the best of an edge."""
    relaxation = Softmax(temperature=search.temperature_end)
    for kind in CELL_KINDS:
        alpha = supernet.cell_alpha(kind)
        weights = relaxation.weights(_ranked(alpha, params[f"{ALPHA_PREFIX}{kind}.ops"]))
        largest = weights.amax(1, keepdim=True)
        alpha.alive &= (weights >= search.prune_threshold) | (weights == largest)


def _ranked(alpha: CellAlpha, logits: Tensor) -> Tensor:
    return logits.masked_fill(~alpha.alive, -torch.inf)
