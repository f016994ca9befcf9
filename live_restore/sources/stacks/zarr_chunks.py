"""Tells which chunks of a zarr array are on disk, without decoding any."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from live_restore.sources.stacks.zarr_metadata import read_json

__all__ = ["has_gaps"]

_ABSENT = 2**64 - 1  # in a shard's index, for the offset and length of a chunk that isn't there


def has_gaps(array: Path) -> bool:
    """Whether chunks of an array aren't there: empty ones, or such as weren't written yet.

    Parameters
    ----------
    array : pathlib.Path
        Its folder. One whose chunks don't lie in a regular grid is taken to be whole.

    Raises
    ------
    SourceError
        Its metadata can't be read: wait until it is written, or write it again.
    """
    grid = _grid(array)
    if grid is None:
        return False
    num_found = 0
    for path, index in _chunk_files(array, grid):
        if grid.shard is not None and not _is_whole(path, grid, grid.shard, index):
            return True
        num_found += 1
    return num_found < math.prod(grid.num_chunks)


@dataclass(frozen=True, slots=True)
class _Shard:
    """How each file of a sharded array holds chunks, and where their list stands."""

    chunk: tuple[int, ...]
    has_checksum: bool
    is_index_first: bool


@dataclass(frozen=True, slots=True)
class _Grid:
    """An array's shape and that of what one file holds."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: _Shard | None

    @property
    def num_chunks(self) -> tuple[int, ...]:
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))


def _grid(array: Path) -> _Grid | None:
    if not (array / "zarr.json").exists():
        metadata = read_json(array / ".zarray")
        return _Grid(tuple(metadata["shape"]), tuple(metadata["chunks"]), None)
    metadata = read_json(array / "zarr.json")
    if metadata["chunk_grid"]["name"] != "regular":
        return None
    chunk = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    return _Grid(tuple(metadata["shape"]), chunk, _shard(metadata["codecs"]))


def _shard(codecs: list[dict[str, Any]]) -> _Shard | None:
    """None too for a shard whose list of chunks is written in a way that isn't usual."""
    if not codecs or codecs[0].get("name") != "sharding_indexed":
        return None
    settings = codecs[0]["configuration"]
    names = [codec["name"] for codec in settings.get("index_codecs", [])]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        return None
    order = settings["index_codecs"][0].get("configuration", {}).get("endian", "little")
    if order != "little":
        return None
    is_first = settings.get("index_location", "end") == "start"
    return _Shard(tuple(settings["chunk_shape"]), "crc32c" in names, is_first)


def _chunk_files(array: Path, grid: _Grid) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """The files that hold chunks, whatever separates the numbers in their names."""
    for folder, _, names in os.walk(array):
        before = Path(folder).relative_to(array).parts
        for name in names:
            parts = re.split(r"[./]", "/".join((*before, name)))
            parts = parts[1:] if parts[0] == "c" else parts
            if len(parts) != len(grid.shape) or not all(part.isdecimal() for part in parts):
                continue
            index = tuple(map(int, parts))
            if all(i < n for i, n in zip(index, grid.num_chunks, strict=True)):
                yield Path(folder, name), index


def _is_whole(path: Path, grid: _Grid, shard: _Shard, index: tuple[int, ...]) -> bool:
    """Whether a shard holds each chunk that lies in the array."""
    held = tuple(-(-n // c) for n, c in zip(grid.chunk, shard.chunk, strict=True))
    size = 16 * math.prod(held)
    with path.open("rb") as file:
        if not shard.is_index_first:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size - 4 * shard.has_checksum))
        raw = file.read(size)
    if len(raw) < size:
        return False
    offsets = np.frombuffer(raw, "<u8").reshape(*held, 2)[..., 0]
    inside = []
    for i, n, whole, part in zip(index, grid.shape, grid.chunk, shard.chunk, strict=True):
        inside.append(range(-(-min(whole, n - i * whole) // part)))
    return all(offsets[place] != _ABSENT for place in product(*inside))
