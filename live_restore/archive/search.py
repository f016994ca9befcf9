"""What is to be restored in the files and folders that a user names: finished stacks, and datasets."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from live_restore.sources.folder import acquisition_name
from live_restore.sources.layouts import Layout, Recognition
from live_restore.sources.stacks import is_folder_stack, stack_suffix

__all__ = ["Found", "find"]

logger = logging.getLogger(__name__)

_NOT_MEANT_FOR_US = (".", "~$")  # beginnings of the names of hidden and of lock files
# NDTiff of version 2 keeps its images in the one and smaller ones of them in the others.
_FULL_SIZE, _SMALLER = "Full resolution", re.compile(r"Downsampled_x\d+")


@dataclass(frozen=True, slots=True)
class Found:
    """A file of stacks, or a dataset of many files.

    Attributes
    ----------
    path : pathlib.Path
        The file, or the dataset's folder; absolute.
    name : str
        Of its acquisition; no two of a search have the same.
    layout : Layout or None
        Reads the dataset; None for a file of stacks.
    """

    path: Path
    name: str
    layout: Layout | None = None


def find(inputs: Iterable[Path], output: Path, recognition: Recognition) -> Iterator[Found]:
    """Everything that can be restored, each once, in the same order each time.

    Parameters
    ----------
    inputs : iterable of pathlib.Path
        Files, which are given whatever they are, and folders, which are searched. Names are relative
        to the folder that holds them all.
    output : pathlib.Path
        A folder that isn't searched.
    recognition : Recognition
        Which datasets are looked for.
    """
    roots = [_absolute(path) for path in inputs]
    search = _Search(_common_folder(roots), output.resolve(), recognition)
    yield from search.files([root for root in roots if not _is_searched(root)])
    folders = dict.fromkeys(root for root in roots if _is_searched(root))
    for folder in folders:
        if not any(other in folder.parents for other in folders):
            yield from search.folder(folder)


class _Search:
    def __init__(self, base: Path, output: Path, recognition: Recognition) -> None:
        self._base = base
        self._output = output
        self._recognition = recognition
        self._datasets: set[Path] = set()
        self._given: set[Path] = set()  # files that were named one by one

    def files(self, paths: list[Path]) -> Iterator[Found]:
        """Files that a user named."""
        stacks = []
        for path in dict.fromkeys(paths):
            layout = None
            if self._recognition.may_belong(path):
                layout = self._recognition.recognise(path)
            if layout is None:
                stacks.append(path)
            else:
                yield from self._dataset(layout)
        self._given.update(stacks)
        yield from self._stacks(stacks)

    def folder(self, root: Path) -> Iterator[Found]:
        """What lies in a folder, and in those inside."""
        for name, folders, files in os.walk(root, onerror=_tell):
            here = Path(name)
            if self._output == here:
                folders.clear()
                continue
            names = sorted(one for one in files if not one.startswith(_NOT_MEANT_FOR_US))
            stacks = [one for one in sorted(folders) if is_folder_stack(one)]
            folders[:] = [
                one
                for one in sorted(folders)
                if one not in stacks
                and not one.startswith(_NOT_MEANT_FOR_US)
                and not (_FULL_SIZE in folders and _SMALLER.fullmatch(one))
            ]
            maybe = [one for one in names if self._recognition.may_belong(here / one)]
            layout = self._layout(here, maybe)
            if layout is not None:
                yield from self._dataset(layout)
                names = sorted(set(names) - set(maybe))
            stacks += [one for one in names if stack_suffix(one)]
            yield from self._stacks([here / one for one in stacks if here / one not in self._given])

    def _layout(self, here: Path, maybe: list[str]) -> Layout | None:
        """The dataset that a folder's files are of; by the first, and by all where that one isn't."""
        if not maybe:
            return None
        return self._recognition.recognise(here / maybe[0]) or self._recognition.recognise(here)

    def _dataset(self, layout: Layout) -> Iterator[Found]:
        if layout.path not in self._datasets:
            self._datasets.add(layout.path)
            name = self._relative(layout.path)
            yield Found(
                layout.path, layout.path.name if name == Path() else name.as_posix(), layout
            )

    def _stacks(self, paths: list[Path]) -> Iterator[Found]:
        """Files of stacks; ``cell.tif`` keeps its suffix where ``cell.ome.tif`` is beside it."""
        short = [acquisition_name(self._relative(path)) for path in paths]
        times = Counter(short)
        for path, name in zip(paths, short, strict=True):
            yield Found(path, name if times[name] == 1 else self._relative(path).as_posix())

    def _relative(self, path: Path) -> Path:
        if path.is_relative_to(self._base):
            return path.relative_to(self._base)
        return Path(path.name)


def _absolute(path: Path) -> Path:
    """Without following a link that the path itself may be: results have the link's name."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _is_searched(root: Path) -> bool:
    return root.is_dir() and not is_folder_stack(root.name)


def _common_folder(roots: list[Path]) -> Path:
    folders = [str(root if _is_searched(root) else root.parent) for root in roots]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # on several drives
        return Path(roots[0].anchor)


def _tell(error: OSError) -> None:
    logger.warning("folder %s: can't be searched (%s)", error.filename, error.strerror)
