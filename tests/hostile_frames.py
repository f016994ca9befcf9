"""Messages that no honest program sends, for a daemon's ports: made from a seed, without end."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from live_restore.plane_protocol import PlaneHeader, PlanesEnd, encode_plane, encode_word

Frames = list[bytes]

NAMES = [
    *(
        "run",
        ".",
        "..",
        "/",
        "./.",
        "../../etc/passwd",
        "a/../../b",
        "C:\\x",
        "con",
        "nul.txt",
        " ",
    ),
    *("\x00", "a\x00b", "\n\r\t", "\x1b[2J", "<x>&amp;", "' OR 1=1 --", "%s%n", "µm Größe", "名前"),
    *("a" * 256, "\U0001f52c" * 256, "a/" * 128, "~2", "run~2", "*?", "..\\..", "-rf", "é" * 200),
]
NUMBERS = [
    *(0, 1, -1, 2, 7, 255, 65_535, 99_999, 100_000, 2**31, 2**31 - 1, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**300, 10**5000),
    *(0.5, -0.0, 1e-320, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf),
]
OTHERS = [
    None,
    True,
    False,
    "",
    "7",
    [],
    {},
    [[]],
    [1, 2, 3, 4],
    {"a": 1},
    ["x"] * 1000,
    "x" * 10_000,
]
TIMES = [
    *("2024-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59"),
    *("2024-02-30T00:00:00Z", 0, -1, 1e18, 2**62, "now", "2024-01-01T00:00:00.0000000001Z"),
]
PLANE_FIELDS = sorted(PlaneHeader.model_fields)
REQUEST_FIELDS = ["get", "do", "kind", "position", "channel", "sequence", "encoding", "v"]


def _json(body: Any) -> bytes:
    """JSON with NaN, Infinity and integers of any size, which Python's own refuses to write."""
    if isinstance(body, dict):
        return b"{%s}" % b",".join(_json(k) + b":" + _json(v) for k, v in body.items())
    if isinstance(body, (list, tuple)):
        return b"[%s]" % b",".join(_json(one) for one in body)
    if isinstance(body, int) and not isinstance(body, bool) and abs(body) > 10**4000:
        return b"1" + b"0" * 5000
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")


def any_value(rng: random.Random) -> Any:
    """A value for any field."""
    return rng.choice(rng.choice([NAMES, NUMBERS, OTHERS, TIMES, ["\ud800", "a\udfff"]]))


def deep(rng: random.Random) -> bytes:
    """JSON of many levels, closed or not."""
    depth = rng.choice([100, 1000, 100_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    return opening * depth + b"1" + (closing * depth if rng.random() < 0.5 else b"")


def spoilt(rng: random.Random, text: bytes) -> bytes:
    """Some bytes of it changed, removed, doubled or put in."""
    data = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.choice([1, 4, 1000])]
            case 2:
                data[at:at] = rng.randbytes(rng.choice([1, 3, 50]))
            case 3:
                data[at:at] = data[at : at + 20]
            case 4:
                data[at:at] = rng.choice(
                    [b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"}", b'"']
                )
    return bytes(data)


# --- planes ---


def plane_fields(rng: random.Random, **changes: Any) -> dict[str, Any]:
    """What a valid plane's header says, of one of a few acquisitions."""
    shape = rng.choice([(4, 6), (1, 1), (8, 8), (1, 64), (3, 3), (5, 4, 3)])
    fields: dict[str, Any] = {
        "v": 1,
        "sender": f"hostile {rng.randrange(3)}",
        "number": rng.choice([0, rng.randrange(1000), 2**62]),
        "acquisition": f"hostile {rng.randrange(20)}",
        "position": str(rng.randrange(3)),
        "time": rng.choice([0, rng.randrange(10), 2**62]),
        "channel": rng.choice(["a", "b"]),
        "z": rng.randrange(4),
        "type": rng.choice(["uint8", "uint16", "float32"]),
        "shape": shape,
    }
    fields |= rng.choice([{}, {"num_slices": rng.choice([1, 2, 4, 100_000])}])
    return fields | changes


def pixels(rng: random.Random, fields: dict[str, Any]) -> bytes:
    """As many as the header says; of floats some that no camera gives."""
    count = math.prod(fields["shape"])
    if fields["type"] == "float32":
        values = [0.0, 1.0, 1e38, -1e38, math.nan, math.inf, -math.inf, 1e-45]
        return np.array([rng.choice(values) for _ in range(count)], "<f4").tobytes()
    return rng.randbytes(count * np.dtype(fields["type"]).itemsize)


def _plane(rng: random.Random, **changes: Any) -> Frames:
    fields = plane_fields(rng, **changes)
    return [b"plane/", _json(fields), pixels(rng, fields)]


def valid_plane(rng: random.Random) -> Frames:
    """Well formed; of acquisitions that never get whole, or go on after their end."""
    return _plane(rng)


def one_plane_stack(rng: random.Random) -> Frames:
    """A volume by itself, of pixels that may be anything."""
    return _plane(rng, num_slices=1, z=0, time=rng.randrange(2**62))


def named(rng: random.Random) -> Frames:
    """A volume by itself, with names that are no file names."""
    names = {name: rng.choice(NAMES) for name in ("acquisition", "position", "channel")}
    return _plane(rng, num_slices=1, z=0, shape=(4, 4), type="uint8", **names)


def new_acquisition(rng: random.Random) -> Frames:
    """One that nobody heard of, with a size that is seldom right."""
    return _plane(rng, acquisition=f"{rng.getrandbits(64):x}" * rng.choice([1, 16]))


def huge_volume(rng: random.Random) -> Frames:
    """A small plane that announces more planes than fit anywhere."""
    side = rng.choice([1, 64, 512])
    return _plane(rng, num_slices=rng.choice([50_000, 100_000]), shape=(side, side), type="uint8")


def wrong_fields(rng: random.Random) -> Frames:
    """Values that don't belong there."""
    fields = plane_fields(rng)
    data = pixels(rng, fields)
    for _ in range(rng.choice([1, 1, 2, 5])):
        fields[rng.choice([*PLANE_FIELDS, "invented"])] = any_value(rng)
    return [b"plane/", _json(fields), data]


def huge_header(rng: random.Random) -> Frames:
    """A header near the bound or beyond it."""
    count = rng.choice([1000, 100_000, 300_000])
    names = [str(i) for i in range(count)]
    fields = plane_fields(rng, **rng.choice([{"positions": names}, {"origin": "x" * 2**20}]))
    return [b"plane/", _json(fields), pixels(rng, fields)]


def spoilt_plane(rng: random.Random) -> Frames:
    """A valid one with a frame changed, cut, left out or doubled."""
    frames = _plane(rng)
    which = rng.randrange(len(frames))
    match rng.randrange(4):
        case 0:
            frames[which] = spoilt(rng, frames[which])
        case 1:
            frames[which] = frames[which][: rng.randrange(len(frames[which]) + 1)]
        case 2:
            del frames[which]
        case 3:
            frames.insert(which, frames[which])
    return frames or [b""]


def word(rng: random.Random) -> Frames:
    """Ends and signs of life, of acquisitions that are there or not."""
    if rng.random() < 0.3:
        end = PlanesEnd(sender="hostile 0", acquisition=f"hostile {rng.randrange(20)}")
        return [bytes(frame) for frame in encode_word(end)]
    fields = {name: any_value(rng) for name in ("sender", "acquisition", "number", "reason")}
    return [rng.choice([b"end/", b"source/", b"start/", b""]), _json(fields)]


def garbage(rng: random.Random) -> Frames:
    """Random frames, few or many."""
    count = rng.choice([1, 2, 3, 3, 4, 7])
    return [rng.randbytes(rng.choice([0, 1, 8, 300, 9000])) for _ in range(count)]


def many_frames(rng: random.Random) -> Frames:
    """Far more frames than any message has."""
    return [b"plane/", b"{}", *[rng.randbytes(1)] * rng.choice([100, 10_000])]


def deep_header(rng: random.Random) -> Frames:
    """See `deep`."""
    return [rng.choice([b"plane/", b"end/", b"source/"]), deep(rng), b"\0" * 48]


Maker = Callable[[random.Random], Frames]

PLANES: dict[Maker, int] = {
    valid_plane: 30,
    spoilt_plane: 20,
    wrong_fields: 20,
    garbage: 10,
    new_acquisition: 8,
    one_plane_stack: 4,
    named: 3,
    word: 10,
    huge_volume: 4,
    deep_header: 2,
    huge_header: 0.3,
    many_frames: 0.3,
}
"""How often each is sent to an ingest port."""


# --- requests ---


def request_fields(rng: random.Random) -> dict[str, Any]:
    """What a valid request says."""
    return {
        "get": rng.choice(["latest", "sequence", "catalog", "status"]),
        "kind": rng.choice(["restored", "raw"]),
        "position": rng.choice(["0", "1", "p"]),
        "channel": rng.choice(["a", "b", "good"]),
        "sequence": rng.randrange(5),
        "encoding": rng.choice(["raw", "blosc2"]),
    }


def valid_request(rng: random.Random) -> Frames:
    """One that an honest client sends too."""
    return [_json(request_fields(rng))]


def wrong_request(rng: random.Random) -> Frames:
    """Values that don't belong there, and commands without a key."""
    fields = request_fields(rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        fields[rng.choice(REQUEST_FIELDS)] = any_value(rng)
    if rng.random() < 0.2:
        fields = {"do": rng.choice(["reload", "drain", *NAMES])}
    return [_json(fields)]


def spoilt_request(rng: random.Random) -> Frames:
    """A valid one changed in some bytes, with frames too many."""
    frames = [spoilt(rng, _json(request_fields(rng)))]
    return frames * rng.choice([1, 1, 2, 5])


def deep_request(rng: random.Random) -> Frames:
    """See `deep`; as large as the port takes."""
    return [deep(rng)[:60_000]]


def long_request(rng: random.Random) -> Frames:
    """As long as the port takes."""
    return [_json(request_fields(rng) | {rng.choice(REQUEST_FIELDS): "x" * 60_000})]


REQUESTS: dict[Maker, int] = {
    valid_request: 30,
    wrong_request: 30,
    spoilt_request: 20,
    garbage: 15,
    deep_request: 3,
    long_request: 2,
    many_frames: 0.3,
}
"""How often each is sent to a control port."""


def choose(rng: random.Random, makers: dict[Maker, float]) -> Frames:
    """One message, of any kind."""
    (maker,) = rng.choices(list(makers), list(makers.values()))
    return maker(rng)


# --- below the messages ---

_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def _command(name: bytes, body: bytes) -> bytes:
    data = bytes([len(name)]) + name + body
    return b"\x04" + bytes([len(data)]) + data


def _ready(socket_type: bytes) -> bytes:
    name = b"Socket-Type"
    field = bytes([len(name)]) + name + struct.pack(">I", len(socket_type)) + socket_type
    return _command(b"READY", field)


def long_frame(nbytes: int, has_more: bool = False) -> bytes:
    """The head of a frame of so many bytes, as ZeroMQ sends it."""
    return bytes([0x03 if has_more else 0x02]) + struct.pack(">Q", nbytes)


def handshake(socket_type: bytes) -> bytes:
    """All that a client says before its first message."""
    return _GREETING + _ready(socket_type)


def raw_bytes(rng: random.Random, socket_type: bytes) -> bytes:
    """What a program sends that doesn't speak ZeroMQ, or stops in the middle of it.

    Parameters
    ----------
    rng : random.Random
        Chooses.
    socket_type : bytes
        Of a client, as ``PUSH``.
    """
    whole = handshake(socket_type)
    kinds = [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(200),
        rng.randbytes(rng.choice([1, 10, 64, 5000])),
        _GREETING[: rng.randrange(64)],
        _GREETING,
        _GREETING.replace(b"NULL", b"EVIL"),
        _GREETING.replace(b"NULL\0", b"PLAIN") + _command(b"HELLO", b"\x01a\x01b"),
        _GREETING.replace(b"NULL\0", b"CURVE") + rng.randbytes(300),
        whole[: rng.randrange(len(whole))],
        spoilt(rng, whole),
        _GREETING + _ready(b"NOSUCHTYPE"),
        _GREETING + _command(b"READY", rng.randbytes(100)),
        whole + long_frame(rng.choice([2**30 + 1, 2**40, 2**63 - 1, 2**64 - 1])) + b"x" * 100,
        whole + long_frame(70_000) + b"x" * 70_000,
        whole + b"\x01\x05plane" * rng.choice([1, 1000]),
        whole + rng.randbytes(rng.choice([10, 1000])),
        whole + _command(b"SUBSCRIBE", b"x") + _command(b"PING", b"\0\0" + b"x" * 16),
        whole + _command(b"ERROR", b"\x05fault") + _command(b"", b""),
    ]
    return rng.choice(kinds)


def good_volume(time: int, data: np.ndarray) -> list[Frames]:
    """The planes of a volume (Z, Y, X) that an honest program sends."""
    return [
        [
            bytes(frame)
            for frame in encode_plane(
                PlaneHeader(
                    sender="honest",
                    number=time * len(data) + z,
                    acquisition=f"good {time}",
                    position="p",
                    time=time,
                    channel="good",
                    z=z,
                    type=data.dtype.name,
                    shape=data.shape[1:],
                    num_slices=len(data),
                    pixel_size_um=0.1,
                    z_step_um=0.3,
                ),
                plane,
            )
        ]
        for z, plane in enumerate(data)
    ]
