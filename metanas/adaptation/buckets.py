"""Buckets: the few sizes to which steps that are recorded are padded, so that they come again.

Notable:
- Images of a task go up to the next power of two, or to three quarters of one; ways up to as many,
  since columns of the head cost next to nothing; tasks up to the next power of two.
- To the objective, rows and columns of zeros are padding anyway. A task too many is the first once
  more, with parameters of its own, whose gradients nobody reads: it divides nothing by zero.
"""

from dataclasses import replace

from torch import Tensor

from metanas.adaptation.objective import Batch, Form, Found

LEAST = 4
"""Images in the smallest bucket."""


def bucket(tasks: int, images: int) -> tuple[int, int]:
    """Tasks, and images of each, that a step of so many is padded to."""
    whole = _power(images)
    between = 3 * whole // 4
    return _power(tasks), max(LEAST, between if images <= between else whole)


def padded(form: Form, batch: Batch) -> tuple[Form, Batch]:
    """A step in its bucket, which gives each of its tasks what it gave before."""
    tasks, images, ways = form.sizes
    whole, rows = bucket(tasks, images)
    _, columns = bucket(tasks, max(images, ways))
    several = () if tasks == 1 else (whole,)  # weights of a single task have no such dimension
    sized = Batch(
        weights=_filled(batch.weights, (*several, batch.weights.shape[-1])),
        shares=_filled(batch.shares, (whole, batch.shares.shape[1])),
        images=_filled(batch.images, (whole, rows, *batch.images.shape[2:])),
        views=_filled(batch.views, (whole, rows, *batch.views.shape[2:])),
        members=_filled(batch.members, (whole, rows, columns)),
    )
    return replace(form, sizes=(whole, rows, columns), uneven=True), sized


def unpadded(found: Found, tasks: int) -> Found:
    """What a step in its bucket found for its own tasks, which come first."""
    if tasks == len(found.losses):
        return found
    return Found(*(value[:tasks] for value in found))


def _filled(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a shape around a value; tasks beyond its own are its first once more."""
    if value.shape == shape:
        return value
    out = value.new_zeros(shape)
    own = tuple(map(slice, value.shape))
    out[own] = value
    out[slice(len(value), None), *own[1:]] = value[:1]
    return out


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
