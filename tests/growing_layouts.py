"""Writers that lay acquisitions out on disk byte for byte as Micro-Manager does, in small pieces.

Each is an iterator that is advanced to write the next piece. It gives the planes that are whole from
then on, or nothing, so that a reader can be asked after each piece.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS = ("DAPI", "FITC")
EXPOSURES_MS = {"DAPI": 10, "FITC": 25.5}
PIXEL_SIZE_UM = 0.13
Z_STEP_UM = 0.4
MAGIC = {"<": b"II*\0", ">": b"MM\0*"}


@dataclass(frozen=True)
class Image:
    """A plane as it is acquired."""

    position: int
    time: int
    channel: int
    z: int
    data: np.ndarray = field(repr=False)

    @property
    def place(self) -> tuple[str, int, str, int]:
        return f"Pos{self.position}", self.time, CHANNELS[self.channel], self.z

    @property
    def metadata(self) -> dict[str, Any]:
        name = CHANNELS[self.channel]
        return {
            "Channel": name,
            "PositionName": f"Pos{self.position}",
            "PixelSizeUm": PIXEL_SIZE_UM,
            "ZPositionUm": 100 + Z_STEP_UM * self.z,
            "Exposure-ms": EXPOSURES_MS[name],
            "UserData": {"note": "µm } {"},
        }


def images(positions=1, times=2, slices=3, shape=(5, 7), dtype="u2", seed=0) -> list[Image]:
    """An acquisition, in the order in which it is acquired; no pixel is 0."""
    rng = np.random.default_rng(seed)
    return [
        Image(p, t, c, z, rng.integers(1, np.iinfo(dtype).max, shape, dtype, endpoint=True))
        for t in range(times)
        for p in range(positions)
        for c in range(len(CHANNELS))
        for z in range(slices)
    ]


def summary(acquired: list[Image]) -> dict[str, Any]:
    """The acquisition's own account of itself, as Micro-Manager 2 gives it."""
    num_positions = 1 + max(image.position for image in acquired)
    return {
        "Prefix": "run",
        "ChNames": list(CHANNELS),
        "IntendedDimensions": {
            "time": 1 + max(image.time for image in acquired),
            "z": 1 + max(image.z for image in acquired),
            "channel": len(CHANNELS),
            "position": num_positions,
        },
        "StagePositions": [
            {"Label": {"type": "STRING", "scalar": f"Pos{p}"}} for p in range(num_positions)
        ],
        "z-step_um": Z_STEP_UM,
    }


@dataclass
class Pieces:
    """Writes in pieces of 1 to `largest` bytes, or in one piece."""

    largest: int | None = 40
    seed: int = 0

    def __post_init__(self):
        self._rng = np.random.default_rng(self.seed)

    def write(
        self, path: Path, offset: int, data: bytes, makes_whole: Image | None = None
    ) -> Iterator[Image | None]:
        """Give the image that the last piece makes whole after it, nothing after the others."""
        while data:
            size = int(self._rng.integers(1, self.largest + 1)) if self.largest else len(data)
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(data[:size])
            offset, data = offset + size, data[size:]
            yield None if data else makes_whole


def laid_out(path: Path, size: int) -> Path:
    """A file of zeros that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _directory(
    image: Image, start: int, metadata_bytes: int, order: str, extra=(), bits=None, align=1
):
    """Its bytes, and where the next one is to lie."""
    rgb = image.data.ndim == 3
    num = 13 + len(extra)
    after = start + 2 + 12 * num + 4
    pixels = after + (6 if rgb else 0)
    end = pixels + image.data.nbytes + 16 + metadata_bytes
    bits = bits or 8 * image.data.itemsize
    height, width = image.data.shape[:2]
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3 if rgb else 1, after if rgb else bits),
        (259, 3, 1, 1), (262, 3, 1, 2 if rgb else 1), *extra[:2], (273, 4, 1, pixels),
        (277, 3, 1, 3 if rgb else 1), (278, 3, 1, height), (279, 4, 1, image.data.nbytes),
        (282, 5, 1, pixels + image.data.nbytes), (283, 5, 1, pixels + image.data.nbytes + 8),
        (296, 3, 1, 3), *extra[2:], (51123, 2, metadata_bytes, end - metadata_bytes),
    ]  # fmt: skip
    raw = struct.pack(order + "H", num)
    for tag, kind, count, value in entries:
        raw += struct.pack(order + "HHI", tag, kind, count)
        short = kind == 3 and count == 1
        raw += struct.pack(order + ("HH" if short else "I"), *((value, 0) if short else (value,)))
    end += end % align
    raw += struct.pack(order + "I", end)
    if rgb:
        raw += struct.pack(order + "HHH", bits, bits, bits)
    return raw, end


def _pixels(image: Image, order: str) -> bytes:
    return image.data.astype(image.data.dtype.newbyteorder(order)).tobytes()


def write_mm_stack(
    folder: Path,
    acquired: list[Image],
    pieces: Pieces,
    *,
    order: str = "<",
    prefix: str = "run_1_",
    entry_first: bool = True,
    per_file: int = 10**9,
) -> Iterator[Image | None]:
    """Image stack files, one per position, continued in another after `per_file` images."""
    positions: dict[int, list[_StackFile]] = {}
    for image in acquired:
        files = positions.setdefault(image.position, [])
        if not files or files[-1].num_images == per_file:
            number = f"_{len(files)}" if files else ""
            path = folder / f"{prefix}MMStack_Pos{image.position}{number}.ome.tif"
            files.append(_StackFile(path, order, summary(acquired), 50 + len(acquired), pieces))
            yield from files[-1].begin(image)
        yield from files[-1].write(image, entry_first)
    for files in positions.values():
        for file in files:
            yield from file.close()


class _StackFile:
    def __init__(self, path, order, said, capacity, pieces):
        self.path, self.order, self.pieces = path, order, pieces
        self.summary = json.dumps(said).encode()
        self.capacity = capacity
        self.num_images = 0

    def begin(self, image):
        laid_out(self.path, 50_000 + 30 * image.data.nbytes)
        self.index_map = 40 + len(self.summary)
        self.end = self.first_image = self.index_map + 8 + 20 * self.capacity
        raw = MAGIC[self.order] + struct.pack(
            self.order + "9I", self.end, 54773648, self.index_map, 0, 0, 0, 0, 2355492,
            len(self.summary),
        )  # fmt: skip
        raw += self.summary + struct.pack(self.order + "II", 3453623, self.capacity)
        yield from self.pieces.write(self.path, 0, raw)

    def write(self, image, entry_first):
        """Micro-Manager writes an image's entry in the index map before the image."""
        start = self.end
        metadata = json.dumps(image.metadata, ensure_ascii=False).encode() + b"\0"
        extra = ((270, 2, 0, 0), (270, 2, 0, 0), (50838, 4, 0, 0), (50839, 1, 0, 0))
        raw, self.end = _directory(
            image, start, len(metadata), self.order, extra if self.num_images == 0 else ()
        )
        entry = struct.pack(
            self.order + "5I", image.channel, image.z, image.time, image.position, start
        )
        place = self.index_map + 8 + 20 * self.num_images
        self.num_images += 1
        raw += _pixels(image, self.order) + struct.pack(self.order + "4I", 1, 1, 1, 1)
        raw += metadata[:-1]
        if entry_first:
            yield from self.pieces.write(self.path, place, entry)
            yield from self.pieces.write(self.path, start, raw, image)
        else:
            yield from self.pieces.write(self.path, start, raw)
            # In one piece: the offset's last bytes are zeros, and so there before they are written.
            yield from Pieces(None).write(self.path, place, entry, image)
        yield from self.pieces.write(self.path, self.end - 1, b"\0")

    def close(self):
        xml = b'<?xml version="1.0" encoding="UTF-8"?><OME/>\0'
        count = struct.pack(self.order + "I", self.num_images)
        tag = struct.pack(self.order + "II", len(xml), self.end)
        yield from self.pieces.write(self.path, self.index_map + 4, count)
        yield from self.pieces.write(self.path, self.end, xml)
        yield from self.pieces.write(self.path, self.first_image + 2 + 5 * 12 + 4, tag)
        _truncate(self.path, self.end + len(xml) + 8)
        yield None


def write_ndtiff(
    folder: Path,
    acquired: list[Image],
    pieces: Pieces,
    *,
    order: str = "<",
    version: int = 3,
    names: bool = True,
    bits: int | None = None,
    index: bool = False,
    per_file: int = 10**9,
) -> Iterator[Image | None]:
    """NDTiff files as the Java writer's, each laid out to 4 GiB.

    Parameters
    ----------
    names : bool
        Channels and positions by name, else by index.
    bits : int
        To say in the tag, whatever the pixels are.
    index : bool
        Axes in the index file alone, as Micro-Manager itself saves.
    """
    files = folder / "Full resolution" if version == 2 else folder
    said = json.dumps({"PixelSize_um": PIXEL_SIZE_UM, "z-step_um": Z_STEP_UM}).encode()
    minor = (2,) if version == 3 else ()
    end = pointer = path = None
    index_path, index_end = laid_out(files / "NDTiff.index", 25 * 2**20 if index else 0), 0
    height, width = acquired[0].data.shape[:2]
    for num, image in enumerate(acquired):
        if num % per_file == 0:
            if path:
                yield from _end_ndtiff(path, pointer, end, pieces)
            number = f"_{num // per_file}" if num else ""
            path = laid_out(files / f"run_NDTiffStack{number}.tif", 2**32)
            head = struct.pack(
                order + f"{4 + len(minor)}I", 483729, version, *minor, 2355492, len(said)
            )
            end = 8 + len(head) + len(said)
            # A file that another one follows was full.
            end = 2**32 - 2**20 if len(acquired) - num > per_file else end + end % 2
            raw = MAGIC[order] + struct.pack(order + "I", end) + head + said
            yield from pieces.write(path, 0, raw)
        axes: dict[str, Any] = {"time": image.time, "z": image.z}
        axes |= {"channel": CHANNELS[image.channel] if names else image.channel}
        axes |= {"position": f"Pos{image.position}" if names else image.position}
        said_of_it = image.metadata if index else image.metadata | {"Axes": axes}
        metadata = json.dumps(said_of_it, ensure_ascii=False).encode()
        start, pointer = end, end + 2 + 13 * 12
        raw, end = _directory(image, start, len(metadata), order, bits=bits, align=2)
        raw += _pixels(image, order) + struct.pack(order + "4I", 1, 1, 1, 1) + metadata
        yield from pieces.write(path, start, raw, None if index else image)
        if index:
            record = b"".join(
                struct.pack("<I", len(text)) + text
                for text in (json.dumps(axes).encode(), path.name.encode())
            )
            numbers = (width, height, 1, 0, start + len(raw) - len(metadata), len(metadata), 0)
            pixels_at = start + 2 + 13 * 12 + 4 + (6 if image.data.ndim == 3 else 0)
            record += struct.pack("<8I", pixels_at, *numbers)
            # What follows the first byte of the metadata's length needn't be there.
            yield from pieces.write(index_path, index_end, record[:-7], image)
            yield from pieces.write(index_path, index_end + len(record) - 7, record[-7:])
            index_end += len(record)
    if index:
        _truncate(index_path, index_end)
    yield from _end_ndtiff(path, pointer, end, pieces)


def _end_ndtiff(path, pointer, end, pieces):
    yield from pieces.write(path, pointer, bytes(4))
    _truncate(path, end)
    yield None


def write_separate(
    folder: Path, acquired: list[Image], pieces: Pieces, *, order: str = ">", style: str = "2"
) -> Iterator[Image | None]:
    """Separate image files as ImageJ's writer makes them: never laid out, written front to back.

    Parameters
    ----------
    style : str
        Names of version ``"2"`` or ``"1.4"``; ``"flat"``: no folder per position.
    """
    begun: list[Path] = []
    for image in acquired:
        position, time, channel, z = image.place
        here = folder if style == "flat" else folder / position
        if here not in begun:
            begun.append(here)
            path = laid_out(here / "metadata.txt", 0)
            said = '{\n"Summary": ' + json.dumps(summary(acquired), indent=2)
            yield from pieces.write(path, 0, said.encode())
        name = (
            f"img_channel{image.channel:03}_position{image.position:03}_time{time:09}_z{z:03}.tif"
        )
        if style == "1.4":
            name = f"img_{time:09}_{channel}_{z:03}.tif"
        info = json.dumps(image.metadata, indent=2, ensure_ascii=False)
        encoded = info.encode("utf-16-be" if order == ">" else "utf-16-le")
        magic = b"IJIJinfo" if order == ">" else b"JIJIofni"
        block = magic + struct.pack(order + "I", 1) + encoded
        num, start = 10, 8
        block_at = start + 2 + 12 * num + 4
        pixels_at = block_at + len(block)
        height, width = image.data.shape[:2]
        samples = 1 if image.data.ndim == 2 else image.data.shape[2]
        raw = MAGIC[order] + struct.pack(order + "IH", start, num)
        for tag, kind, value in [
            (254, 4, 0), (256, 4, width), (257, 4, height), (258, 3, 8 * image.data.itemsize),
            (262, 3, 1), (273, 4, pixels_at), (277, 3, samples), (278, 3, height),
            (279, 4, image.data.nbytes), (50839, 1, block_at),
        ]:  # fmt: skip
            count = len(block) if tag == 50839 else 1
            values = struct.pack(order + "HH", value, 0) if kind == 3 else b""
            raw += struct.pack(order + "HHI", tag, kind, count)
            raw += values or struct.pack(order + "I", value)
        raw += bytes(4) + block + _pixels(image, order)
        yield from pieces.write(laid_out(here / name, 0), 0, raw, image)
        entry = json.dumps({"position": image.position, "nested": {"z": z}}, indent=2)
        yield from _append(here / "metadata.txt", f',\n"Coords-{name}": {entry}', pieces)
    for here in begun:
        yield from _append(here / "metadata.txt", "\n}\n", pieces)


def _append(path: Path, text: str, pieces: Pieces) -> Iterator[None]:
    yield from pieces.write(path, path.stat().st_size, text.encode())


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
