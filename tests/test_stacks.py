import os

import numpy as np
import pytest

from live_restore.errors import SourceError
from live_restore.sources.stacks import (
    FOLDER_SUFFIXES,
    is_folder_stack,
    open_stack,
    stack_suffix,
    stack_version,
)
from tests.ome_zarr_files import write_image

STACK = np.ones((5, 8, 9), "u2")


@pytest.mark.parametrize(
    ("name", "suffix", "is_folder"),
    [
        ("cell.ome.zarr", ".ome.zarr", True),
        ("cell.zarr", ".zarr", True),
        ("Cell.OME.Zarr", ".OME.Zarr", True),
        ("cell.ome.tif", ".ome.tif", False),
        ("cell.tif", ".tif", False),
        ("cell.btf", ".btf", False),
        ("cell.nd2", ".nd2", False),
        ("cell.ome.nd2", ".nd2", False),
        ("cell.czi", ".czi", False),
        ("cell.LIF", ".LIF", False),
        ("cell.dv", ".dv", False),
        ("cell.r3d", ".r3d", False),
        ("cell.png", None, False),
        ("zarr", None, False),
        ("cell.zarr.zip", None, False),
    ],
)
def test_the_suffix_tells_the_kind(name, suffix, is_folder):
    assert stack_suffix(name) == suffix
    assert is_folder_stack(name) == is_folder
    assert FOLDER_SUFFIXES == (".zarr",)


def test_a_suffix_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"expected \.tif, .*\.zarr, .*\.nd2"):
        open_stack(tmp_path / "a.png", "name")


@pytest.mark.parametrize(
    ("zarr_format", "file"), [(2, ".zattrs"), (2, ".zgroup"), (3, "zarr.json")]
)
def test_a_folders_version_is_that_of_its_metadata(zarr_format, file, tmp_path):
    path = tmp_path / "a.zarr"
    assert stack_version(path) is None
    path.mkdir()
    assert stack_version(path) is None
    write_image(path, STACK, "zyx", zarr_format)
    if file == ".zgroup":
        (path / ".zattrs").unlink()
    stat = (path / file).stat()
    version = stack_version(path)
    assert version == f"{stat.st_size}-{stat.st_mtime_ns}"
    os.utime(path / file, ns=(0, stat.st_mtime_ns + 1))
    assert stack_version(path) != version


def test_a_files_version_is_its_size_and_time(tmp_path):
    path = tmp_path / "a.nd2"
    assert stack_version(path) is None
    path.write_bytes(b"123")
    assert stack_version(path) == f"3-{path.stat().st_mtime_ns}"
    assert stack_version(tmp_path / "a.nd2" / "b.nd2") is None
