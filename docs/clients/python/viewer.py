"""Watches a live_restore daemon: one line of JSON per volume and per event.

    pip install numpy pyzmq
    python viewer.py --data tcp://127.0.0.1:5556 --control tcp://127.0.0.1:5557

One file to copy from; it needs Python 3.11, numpy and pyzmq. `LiveRestore` is the client, `main` prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq

TYPES = {"uint8": "<u1", "uint16": "<u2", "float32": "<f4"}
ANSWER_S = 2.0  # how long to wait for the control port
SILENCE_S = 3.0  # the daemon's heart beats once a second
LARGEST_AXIS = 2**20

Event = dict[str, Any]
Stream = tuple[str, str]  # position and channel


class Problem(Exception):  # noqa: N818
    """Something that is said and then passed over: malformed, refused or unanswered."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.event: Event = {"event": kind, "reason": reason}


def field(header: Event, name: str, kind: type) -> Any:
    """A value of a header, which must be of a type."""
    value = header.get(name)
    if type(value) is not kind:
        raise Problem("malformed", f"{name}: {kind.__name__} expected, {type(value).__name__} came")
    return value


def number(value: Any) -> int:
    """What must be a count."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise Problem("malformed", f"a count expected, another {type(value).__name__} came")
    return value


def parse(frames: list[zmq.Frame]) -> tuple[str, Event]:
    """Topic and header of a message."""
    if len(frames) < 2:
        raise Problem("malformed", f"topic and header expected, {len(frames)} frame came")
    try:
        topic = frames[0].bytes.decode()
        header = json.loads(frames[1].bytes.decode())
    except (ValueError, RecursionError) as error:
        raise Problem("malformed", f"not UTF-8, or not JSON: {error}") from error
    if type(header) is not dict or header.get("v", 1) != 1:
        raise Problem("malformed", "a header of protocol 1 expected")
    return topic, header


def shape_of(header: Event) -> list[int]:
    """[z, y, x]."""
    shape: list[int] = field(header, "shape", list)
    if len(shape) != 3 or not all(type(n) is int and 0 < n < LARGEST_AXIS for n in shape):
        raise Problem("malformed", "shape: [z, y, x] expected")
    return shape


def texts(header: Event, *names: str) -> Event:
    """Some texts of a header."""
    return {name: field(header, name, str) for name in names}


def volume_of(header: Event, planes: list[zmq.Frame]) -> Event:
    """A volume: what its header says, and "data", an array (Z, Y, X)."""
    shape, type_name = shape_of(header), field(header, "type", str)
    if type_name not in TYPES or header.get("encoding", "raw") != "raw":
        raise Problem("malformed", f"this client doesn't know voxels of type {type_name!r:.80}")
    dtype = np.dtype(TYPES[type_name])
    plane_bytes = shape[1] * shape[2] * dtype.itemsize
    if len(planes) != shape[0] or any(len(plane) != plane_bytes for plane in planes):
        raise Problem(
            "malformed", f"{shape[0]} planes of {plane_bytes} bytes expected, others came"
        )
    data = np.empty(shape, dtype)
    for z, plane in enumerate(planes):
        data[z] = np.frombuffer(plane.buffer, dtype).reshape(shape[1:])
    event = texts(header, "session", "kind", "acquisition", "position", "channel", "type")
    event |= {"sequence": number(header.get("sequence")), "time": number(header.get("time"))}
    return {"event": "volume"} | event | {"shape": shape, "data": data}


class LiveRestore:
    """A client of both ports. Use `events`.

    Parameters
    ----------
    data, control : str
        Endpoints.
    kind : {"restored", "raw"}
        Which volumes.
    latest_only : bool
        Be told what is new and ask for the latest: for drawing that is slower than the microscope.
    keys : dict, optional
        "server", "public" and "secret", for a daemon with keys.
    """

    def __init__(
        self,
        data: str,
        control: str,
        kind: str = "restored",
        latest_only: bool = False,
        keys: dict[str, str] | None = None,
    ) -> None:
        self.control, self.kind, self.latest_only, self.keys = control, kind, latest_only, keys
        self.session: str | None = None
        self.next: dict[Stream, int] = {}  # the number of each stream that is awaited
        self.told: dict[str, int] = {}  # likewise of each topic, as far as the data port told
        self.topic = f"announce/{kind}/" if latest_only else f"volume/{kind}/"
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 2)
        for topic in (self.topic, "skipped/", "system/"):
            self.socket.subscribe(topic)
        self._connect(self.socket, data)

    def close(self) -> None:
        """Leave."""
        self.context.destroy(linger=0)

    def events(self) -> Iterator[Event]:
        """What happens, for ever; waits for a daemon that isn't there, or comes back."""
        last_beat, is_silent = time.monotonic(), False
        while True:
            if self.socket.poll(200):
                try:
                    topic, header = parse(frames := self.socket.recv_multipart(copy=False))
                    if topic == "system/heartbeat/":
                        last_beat, is_silent = time.monotonic(), False
                    yield from self._take(topic, header, frames[2:])
                except Problem as problem:
                    yield problem.event
            elif not is_silent and time.monotonic() - last_beat > SILENCE_S:
                is_silent = True
                yield {"event": "silent", "reason": f"no heartbeat for {SILENCE_S:g} s"}

    def _take(self, topic: str, header: Event, planes: list[zmq.Frame]) -> Iterator[Event]:
        volume = volume_of(header, planes) if topic.startswith("volume/") else None
        if (session := field(header, "session", str)) != self.session:
            is_joining = self.session is None
            self.session, self.next, self.told = session, {}, {}
            yield {"event": "session", "session": session}
            yield from self._catch_up(is_joining)
        if topic == "system/heartbeat/":
            last = field(header, "sequences", dict)
            ours = {t: number(last[t]) + 1 for t in last if t.startswith(self.topic)}
            if any(count > self.told.get(t, 0) for t, count in ours.items()):
                yield from self._catch_up()
            self.told.update(ours)
        elif topic.startswith(("volume/", "announce/")):
            sequence = number(header.get("sequence"))
            stream = field(header, "position", str), field(header, "channel", str)
            self.told[topic] = sequence + 1
            if volume is None:
                yield from self._latest(stream, sequence)
            else:
                yield from self._repair(stream, sequence)
                yield from self._show(volume, "published")
        elif topic.startswith("skipped/"):
            event = texts(header, "acquisition", "position", "channel", "reason")
            yield {"event": "skipped"} | event | {"time": number(header.get("time"))}
        elif topic == "system/start/":
            channels = field(header, "channels", list)
            if not all(type(channel) is str for channel in channels):
                raise Problem("malformed", "channels: names expected")
            event = texts(header, "acquisition", "type")
            yield {"event": "start"} | event | {"shape": shape_of(header), "channels": channels}
        elif topic == "system/end/":
            yield {"event": "end"} | texts(header, "acquisition", "reason")

    def _show(self, volume: Event, how: str, passed: int = 0) -> Iterator[Event]:
        stream, sequence = (volume["position"], volume["channel"]), volume["sequence"]
        if sequence >= self.next.get(stream, 0):  # else it had come through the control port
            self.next[stream] = sequence + 1
            yield volume | {"how": how, "passed": passed}

    def _catch_up(self, is_joining: bool = False) -> Iterator[Event]:
        """Of all streams: the latest volume, or each one that didn't come."""
        try:
            catalog = self._catalog()
        except Problem as problem:
            yield problem.event
            return
        for stream, (last, held) in catalog.items():
            if is_joining or self.latest_only:
                yield from self._latest(stream, last, is_joining)
            else:
                yield from self._repair(stream, last + 1, held)

    def _latest(self, stream: Stream, last: int, is_joining: bool = False) -> Iterator[Event]:
        """The newest volume, unless number `last` was shown; and how many were passed over."""
        if last < (awaited := self.next.get(stream, 0)):
            return
        try:
            volume = self._volume(stream, get="latest")
            passed = 0 if is_joining else volume["sequence"] - awaited
            yield from self._show(volume, "latest", passed)
        except Problem as problem:
            yield problem.event

    def _repair(self, stream: Stream, until: int, held: list[int] | None = None) -> Iterator[Event]:
        """Fetch the volumes before number `until` that didn't come, as far as they are held."""
        start, had = self.next.get(stream, 0), 0
        if start >= until:
            return
        try:
            for wanted in self._catalog()[stream][1] if held is None else held:
                if start <= wanted < until:
                    volume = self._volume(stream, get="sequence", sequence=wanted)
                    yield from self._show(volume, "repaired")
                    had += 1
        except Problem as problem:
            yield problem.event
        self.next[stream] = until
        if lost := until - start - had:
            yield {"event": "lost", "position": stream[0], "channel": stream[1], "count": lost}

    def _catalog(self) -> dict[Stream, tuple[int, list[int]]]:
        """Last number of each stream, and the numbers held."""
        _, header, _ = self._ask({"get": "catalog"})
        found = {}
        for one in field(header, "streams", list):
            entry = one if type(one) is dict else {}
            held = {number(n) for n in field(entry, "held", list)}
            stream = field(entry, "position", str), field(entry, "channel", str)
            found[stream] = number(entry.get("last")), sorted(held)
        return found

    def _volume(self, stream: Stream, **request: Any) -> Event:
        names = {"kind": self.kind, "position": stream[0], "channel": stream[1]}
        _, header, planes = self._ask(request | names)
        volume = volume_of(header, planes)
        came = volume["position"], volume["channel"], volume["sequence"]
        if came != (*stream, request.get("sequence", came[2])):
            raise Problem("malformed", f"{request} of {stream} asked for, {came} came")
        return volume

    def _ask(self, request: Event) -> tuple[str, Event, list[zmq.Frame]]:
        # A socket per request: a late answer is never taken for the next one's.
        with self.context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            self._connect(socket, self.control)
            socket.send_json(request)
            if not socket.poll(int(ANSWER_S * 1000)):
                raise Problem("unanswered", f"no answer from {self.control}")
            topic, header = parse(frames := socket.recv_multipart(copy=False))
        if topic == "error/":
            raise Problem("refused", str(header.get("message")))
        if field(header, "session", str) != self.session:
            raise Problem("refused", "the daemon restarted meanwhile")
        return topic, header, frames[2:]

    def _connect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        if self.keys:
            socket.curve_serverkey = self.keys["server"].encode()
            socket.curve_publickey = self.keys["public"].encode()
            socket.curve_secretkey = self.keys["secret"].encode()
        socket.connect(endpoint)


def described(event: Event) -> Event:
    """A line about an event; of voxels their sum, their extremes and where the brightest is."""
    if event["event"] != "volume":
        return event
    data = event["data"]
    total = data.sum(dtype=np.uint64 if data.dtype.kind == "u" else np.float64)
    figures = {"sum": total, "min": data.min(), "max": data.max()}
    line = {name: value for name, value in event.items() if name != "data"}
    line |= {name: n.item() if np.isfinite(n) else None for name, n in figures.items()}
    return line | {"brightest": [int(n) for n in np.unravel_index(data.argmax(), data.shape)]}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="a line of JSON per volume and per event")
    parser.add_argument("--data", default="tcp://127.0.0.1:5556", help="data port")
    parser.add_argument("--control", default="tcp://127.0.0.1:5557", help="control port")
    parser.add_argument("--kind", default="restored", choices=("restored", "raw"))
    parser.add_argument("--latest", action="store_true", help="the newest volume only")
    parser.add_argument("--keys", type=Path, help="file of live-restore keys")
    parser.add_argument("--count", type=int, default=-1, help="end after so many volumes")
    options = parser.parse_args()
    try:
        keys = tomllib.loads(options.keys.read_text(encoding="utf-8")) if options.keys else None
        client = LiveRestore(options.data, options.control, options.kind, options.latest, keys)
    except (OSError, ValueError, KeyError, zmq.ZMQError) as error:
        print(f"can't connect: {error}", file=sys.stderr)
        return 2
    left = options.count
    try:
        for event in client.events():
            print(json.dumps(described(event)), flush=True)
            left -= event["event"] == "volume"
            if left == 0:
                break
    except KeyboardInterrupt:
        pass
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
