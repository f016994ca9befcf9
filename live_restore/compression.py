"""Planes in blosc2, without loss, for viewers behind a slow link."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import ProtocolError

__all__ = ["can_compress", "compress", "decompress_into"]


def can_compress() -> bool:
    """Whether this installation has blosc2 (the extra ``compression``)."""
    try:
        import imagecodecs
    except ImportError:
        return False
    return bool(imagecodecs.BLOSC2.available)


def compress(plane: NDArray[Any]) -> bytes:
    """A plane, C order, as one blosc2 chunk.

    Raises
    ------
    ImportError
        `can_compress` says no.
    """
    import imagecodecs

    encode: Any = imagecodecs.blosc2_encode  # its annotations know no arrays
    # On restored and on raw low-light stacks alike the best ratio of those that outrun any network.
    return bytes(
        encode(
            plane,
            level=1,
            compressor="zstd",
            shuffle="shuffle",
            typesize=plane.itemsize,
            numthreads=1,
        )
    )


def decompress_into(chunk: bytes | memoryview, out: NDArray[Any]) -> None:
    """Fill a plane from a chunk.

    Parameters
    ----------
    chunk : bytes-like
        From `compress`, or anybody's.
    out : ndarray, (Y, X)
        Never written beyond its end, whatever `chunk` claims.

    Raises
    ------
    ProtocolError
        It isn't blosc2, or has another size, or this installation can't read it.
    """
    try:
        import imagecodecs
    except ImportError as error:
        raise ProtocolError(
            'a compressed volume came, which needs blosc2 here: pip install "live-restore[compression]"'
        ) from error
    decode: Any = imagecodecs.blosc2_decode
    plane = np.ascontiguousarray(out)  # itself, mostly
    try:
        size = len(decode(bytes(chunk), out=plane.reshape(-1).view(np.uint8)))
    except (imagecodecs.Blosc2Error, ValueError) as error:
        raise ProtocolError(f"a compressed plane can't be read: {error}") from error
    if size != out.nbytes:
        raise ProtocolError(f"a compressed plane has {size} bytes, {out.nbytes} were announced")
    if plane is not out:
        out[...] = plane
