"""The files of a bioimage.io package: a zip file, or a folder, with an ``rdf.yaml`` among them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from live_restore.errors import ModelError

__all__ = ["RDF_NAMES", "Package"]

RDF_NAMES = ("rdf.yaml", "bioimageio.yaml", "rdf.yml", "bioimageio.yml")


class Package:
    """A package's description, and the files beside it.

    Parameters
    ----------
    path : pathlib.Path
        A zip file, a folder, or the description in one.

    Attributes
    ----------
    description : object
        What the description's YAML holds.

    Raises
    ------
    ModelError
        There is no description in it, or the zip file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = path.parent if path.name in RDF_NAMES else path
        self._is_zip = path.is_file() and path.name not in RDF_NAMES
        self._root = PurePosixPath()
        try:
            names = self._names()
            if not names:
                raise ModelError(
                    f"not a bioimage.io package: there is no {' or '.join(RDF_NAMES[:2])} in it"
                )
            rdf = min(names, key=lambda name: len(name.parts))
            self._root = rdf.parent
            self.description: Any = yaml.safe_load(self.read(rdf.name).decode("utf-8"))
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ModelError(
                f"not a bioimage.io package that can be read ({' '.join(str(error).split())}); "
                "is it complete?"
            ) from error

    def _names(self) -> list[PurePosixPath]:
        """The descriptions in it."""
        if not self._is_zip:
            return [PurePosixPath(n) for n in RDF_NAMES if (self._folder / n).is_file()]
        with zipfile.ZipFile(self.path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
        return [name for name in names if name.name in RDF_NAMES]

    def read(self, name: str, sha256: str | None = None) -> bytes:
        """The bytes of a file beside the description.

        Raises
        ------
        ModelError
            It isn't there, or isn't the one that the description was written for.
        """
        if "://" in name:
            raise ModelError(
                f"its description refers to {name}; download the whole package, with its weights"
            )
        try:
            content = self._read(self._root / PurePosixPath(name))
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError) as error:
            raise ModelError(f"{name} is missing from the package, or damaged") from error
        if sha256 and hashlib.sha256(content).hexdigest() != sha256.lower():
            raise ModelError(f"{name} isn't the file that its description names (SHA-256 differs)")
        return content

    def _read(self, member: PurePosixPath) -> bytes:
        if self._is_zip:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(str(member))
        file = (self._folder / member).resolve()
        if not file.is_relative_to(self._folder.resolve()):
            raise FileNotFoundError(f"{member} lies outside of the package")
        return file.read_bytes()
