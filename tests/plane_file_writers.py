"""Writers of one TIFF file per plane, in small pieces, as programs of several kinds write and copy them.

As in `growing_layouts`, each is an iterator that is advanced to write the next piece, and gives the
plane that is whole from then on, or nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.growing_layouts import CHANNELS, MAGIC, Image, Pieces, laid_out

SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}


def flat(image: Image) -> str:
    return f"{CHANNELS[image.channel]}_{image.time:03}_{image.z:02}.tif"


def by_position(image: Image) -> str:
    return f"Pos{image.position}/{CHANNELS[image.channel]}_t{image.time}_z{image.z}.tif"


def from_one(image: Image) -> str:
    return f"Zelle µ 7_w{CHANNELS[image.channel]}_t{image.time + 1}_z{image.z + 1}.TIF"


def tiff(
    data: np.ndarray,
    order: str = "<",
    *,
    directory: str = "first",
    strips: int = 1,
    text: str = "",
    next_page: int = 0,
) -> tuple[bytes, int]:
    """A TIFF file, and where its directory begins.

    Parameters
    ----------
    directory : str
        ``"first"``, before the pixels, as ImageJ writes; ``"last"``, as libtiff does.
    strips : int
        All but the last have as many rows.
    text : str
        Its description.
    next_page : int
        Where the next image should be.
    """
    height, width = data.shape[:2]
    samples = data.shape[2] if data.ndim == 3 else 1
    rows = -(-height // strips)
    sizes = [len(data[at : at + rows].tobytes()) for at in range(0, height, rows)]
    said = text.encode() + b"\0" if text else b""
    num = 11 + bool(said)
    directory_bytes = 2 + 12 * num + 4
    elsewhere = 8 * len(sizes) + len(said) + 2 * samples  # what doesn't fit into entries
    start = 8 if directory == "first" else 8 + data.nbytes + data.nbytes % 2
    pixels = 8 if directory == "last" else 8 + directory_bytes + elsewhere
    at = start + directory_bytes
    offsets = [pixels + sum(sizes[:n]) for n in range(len(sizes))]
    values = [
        struct.pack(f"{order}{len(sizes)}I", *offsets),
        struct.pack(f"{order}{len(sizes)}I", *sizes),
        struct.pack(f"{order}{samples}H", *[8 * data.itemsize] * samples),
        said,
    ]
    places = [at + sum(map(len, values[:n])) for n in range(4)]
    entries = [
        (256, 4, 1, width), (257, 4, 1, height),
        (258, 3, samples, places[2] if samples > 2 else 8 * data.itemsize), (259, 3, 1, 1),
        (262, 3, 1, 1), *([(270, 2, len(said), places[3])] if said else []),
        (273, 4, len(sizes), places[0] if strips > 1 else offsets[0]), (277, 3, 1, samples),
        (278, 4, 1, rows), (279, 4, len(sizes), places[1] if strips > 1 else sizes[0]),
        (284, 3, 1, 1), (339, 3, 1, SAMPLE_FORMATS[data.dtype.kind]),
    ]  # fmt: skip
    raw = struct.pack(order + "H", num)
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        raw += struct.pack(order + "HHI", tag, kind, count)
        raw += struct.pack(order + ("HH" if short else "I"), *((value, 0) if short else (value,)))
    raw += struct.pack(order + "I", next_page) + b"".join(values)
    body = data.astype(data.dtype.newbyteorder(order)).tobytes()
    head = MAGIC[order] + struct.pack(order + "I", start)
    if directory == "first":
        return head + raw + body, start
    return head + body + bytes(len(body) % 2) + raw, start


def write_plane_files(
    folder: Path,
    acquired: list[Image],
    pieces: Pieces,
    *,
    name: Callable[[Image], str] = flat,
    is_copied: bool = False,
    make: Callable[[Image], bytes] | None = None,
    **options,
) -> Iterator[Image | None]:
    """A file for each plane.

    Parameters
    ----------
    name : callable
        Path of an image's file in the folder.
    is_copied : bool
        Laid out first, all zeros, then filled from the front, as Windows copies.
    make : callable, optional
        A file's content; by default `tiff`'s, with the options.
    """
    for image in acquired:
        content = make(image) if make else tiff(image.data, **options)[0]
        path = laid_out(folder / name(image), len(content) if is_copied else 0)
        if options.get("directory") == "last" and not is_copied:
            # libtiff's order: where the directory is, is written when it is there.
            yield from pieces.write(path, 0, content[:4] + bytes(4))
            yield from pieces.write(path, 8, content[8:])
            yield from Pieces(None).write(path, 4, content[4:8], image)
        else:
            yield from pieces.write(path, 0, content, image)
