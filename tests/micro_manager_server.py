"""A Micro-Manager for tests: speaks the Java bridge's protocol to the unmodified client.

``python -m tests.micro_manager_server [port]`` prints its port, then takes JSON lines:

- ``{"do": "start", ...}``: an acquisition, see `micro_manager_objects.Acquisition`
- ``{"do": "images", "up_to": n}``: so many of its images exist now
- ``{"do": "abort"}`` and ``{"do": "finish"}``: it ends, with the images that exist
- ``{"do": "hang", "call": name}``: the next such call is never answered; says so on stdout
- ``{"do": "fail", "call": name}``: the next such call fails, once
- ``{"do": "light", "value": x}``: the user sets the laser's power by hand
- ``{"do": "tell"}``: prints how often each method was called, what it still holds for clients, and the laser's power
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
import threading
from collections import Counter
from typing import Any

import numpy as np
import zmq

from tests.micro_manager_objects import STUDIO, Acquisition, JavaObject, Store, Studio


class Server:
    """One REP socket, as Micro-Manager's own server."""

    def __init__(self, port: int | None = None) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        if port is None:
            self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        else:
            self._socket.bind(f"tcp://127.0.0.1:{port}")
            self.port = port
        self._studio = Studio()
        self._objects: dict[int, JavaObject] = {}
        self._numbers = itertools.count(1)
        self._calls: Counter[str] = Counter()
        self._hang: str | None = None
        self._fail: str | None = None

    def control(self) -> None:
        """Take orders on standard input until it ends; the server ends with it."""
        for line in sys.stdin:
            order = json.loads(line)
            match order.pop("do"):
                case "start":
                    self._studio.stores.append(Store(Acquisition(**order)))
                case "images":
                    self._studio.stores[-1].of.set_images(order["up_to"])
                case "abort" | "finish":
                    self._studio.stores[-1].of.end()
                case "hang":
                    self._hang = order.get("call", "getImage")
                case "fail":
                    self._fail = order["call"]
                case "tell":
                    held = [type(one).__name__ for one in self._objects.values()]
                    told = {"calls": self._calls, "held": held, "light": self._studio.mmcore.light}
                    print(json.dumps(told), flush=True)
                case "light":
                    self._studio.mmcore.light = f"{order['value']:.4f}"

    def serve(self) -> None:
        while True:
            request = json.loads(self._socket.recv_multipart()[0].decode("iso-8859-1"))
            try:
                reply = self._answer(request)
            except Exception as error:  # noqa: BLE001 - goes to the client
                reply = [
                    {"type": "exception", "value": f"java.lang.{type(error).__name__}: {error}"}
                ]
            head, *more = reply
            self._socket.send_multipart([json.dumps(head).encode("iso-8859-1"), *more])

    def _answer(self, request: dict[str, Any]) -> list[Any]:
        match request["command"]:
            case "connect":
                return [{"type": "none", "version": "5.1.0"}]
            case "get-constructors":
                name = request["classpath"]
                return [{"type": "none", "api": [{"name": name, "arguments": []}]}]
            case "constructor" if request["classpath"] == STUDIO:
                return self._pack(self._studio)
            case "destructor":
                self._objects.pop(request["hash-code"], None)
                return [{"type": "none"}]
            case "run-method":
                return self._run(request)
        raise NotImplementedError(request["command"])

    def _run(self, request: dict[str, Any]) -> list[Any]:
        name = request["name"]
        self._calls[name] += 1
        if self._hang in (name, "any"):
            print(json.dumps({"hung": name}), flush=True)
            threading.Event().wait()
        if self._fail == name:
            self._fail = None
            return [{"type": "exception", "value": "java.io.IOException: no such luck"}]
        if request["hash-code"] not in self._objects:
            return [{"type": "exception", "value": "java.lang.NullPointerException"}]
        arguments = [
            self._objects[one["hash-code"]] if isinstance(one, dict) else one
            for one in request["arguments"]
        ]
        return self._pack(getattr(self._objects[request["hash-code"]], name)(*arguments))

    def _pack(self, value: Any) -> list[Any]:
        if value is None:
            return [{"type": "none"}]
        if isinstance(value, str):
            return [{"type": "string", "value": value}]
        if isinstance(value, np.ndarray):
            number = next(self._numbers)
            kind = {1: "byte-array", 2: "short-array", 4: "float-array"}[value.dtype.itemsize]
            head = {"type": kind, "value": f"[B@{number:x}"}
            return [head, struct.pack("=I", number), value.tobytes()]
        if isinstance(value, JavaObject):
            number = next(self._numbers)
            self._objects[number] = value
            description = {
                "type": "unserialized-object",
                "class": value.java_class,
                "hash-code": number,
                "port": self.port,
                "interfaces": [*value.interfaces, "java.lang.Object"],
                "fields": [],
                "api": value.api(),
            }
            return [description]
        return [{"type": "primitive", "value": value}]


def main() -> None:
    server = Server(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(server.port, flush=True)
    threading.Thread(target=server.serve, daemon=True).start()
    server.control()


if __name__ == "__main__":
    main()
