"""One descriptor pool for server reflection, out of files from several pools."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool


def pool_of(files: Iterable[Any]) -> DescriptorPool:
    """Return a pool with these files and the files that they import.

    files: file descriptors; generated modules annotate them with different classes.
    """
    pool = DescriptorPool()
    for file in files:
        _add(pool, file)
    return pool


def _add(pool: DescriptorPool, file: Any) -> None:
    for each in file.dependencies:
        _add(pool, each)
    pool.AddSerializedFile(file.serialized_pb)
