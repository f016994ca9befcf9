"""The clients in docs/clients: built, run as processes of their own, and given a hard time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from tests.conftest import make_restored, make_volume, wait_for

CLIENTS = Path(__file__).parents[1] / "docs" / "clients"
LANGUAGES = ("python", "cpp", "java")
# Where Debian's packages cppzmq-dev, nlohmann-json3-dev, libjeromq-java, libgoogle-gson-java and
# libij-java put things.
INCLUDES = Path("/usr/include")
JARS = Path("/usr/share/java")
_JAVA = ("java", "-XX:TieredStopAtLevel=1")


def build(language, folder):
    """Compile a client; the command that starts it."""
    match language:
        case "python":
            return [sys.executable, str(CLIENTS / "python" / "viewer.py")]
        case "cpp":
            needed = [INCLUDES / "zmq.hpp", INCLUDES / "nlohmann" / "json.hpp"]
            _demand("g++", needed, "g++ cppzmq-dev nlohmann-json3-dev")
            source, program = CLIENTS / "cpp" / "viewer.cpp", folder / "viewer"
            flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
            _run("g++", *flags, source, "-lzmq", "-o", program)
            return [str(program)]
        case "java":
            jars = _jars("jeromq.jar", "gson.jar")
            _compile_java(sorted((CLIENTS / "java").glob("*.java")), jars, folder)
            return [*_JAVA, "-Djava.awt.headless=true", "-cp", _path(*jars, folder), "Viewer"]
        case "imagej":
            return _build_imagej(folder)


def _build_imagej(folder):
    """ImageJ with the plugin in its plugins folder, and one that does what a test tells it."""
    jeromq, gson, imagej = jars = _jars("jeromq.jar", "gson.jar", "ij.jar")
    _demand("Xvfb", [], "xvfb default-jdk")
    sources = [*(CLIENTS / "java").glob("LiveRestore*.java"), *(CLIENTS / "fiji").glob("*.java")]
    _compile_java(sources, jars, folder / "classes")
    plugins = folder / "plugins"
    (plugins / "jars").mkdir(parents=True)
    for jar in (jeromq, gson):
        shutil.copy(jar, plugins / "jars" / jar.name)
    config = ["-C", CLIENTS / "fiji", "plugins.config"]
    _run("jar", "cf", plugins / "live_restore_.jar", *config, "-C", folder / "classes", ".")
    _compile_java([Path(__file__).parent / "imagej" / "ImageJSession.java"], jars, folder / "told")
    classpath = _path(imagej, folder / "told")
    properties = [f"-Dplugins.dir={folder}", f"-Duser.home={folder}"]
    return [*_JAVA, *properties, "-cp", classpath, "ImageJSession"]


def _jars(*names):
    jars = [JARS / name for name in names]
    _demand("javac", jars, "default-jdk libjeromq-java libgoogle-gson-java libij-java")
    return jars


def _path(*parts):
    return os.pathsep.join(map(str, parts))


def _compile_java(sources, jars, folder):
    """For Java 8, which Fiji and MATLAB have."""
    flags = ["--release", "8", "-Xlint:all,-options", "-Werror", "-encoding", "UTF-8"]
    _run("javac", *flags, "-cp", _path(*jars), "-d", folder, *sources)


def _demand(program, files, packages):
    missing = [str(file) for file in files if not file.exists()]
    missing += [] if shutil.which(program) else [program]
    if missing:
        reason = f"{', '.join(missing)} missing; Debian's packages: {packages}"
        if os.environ.get("LIVE_RESTORE_ALL_CLIENTS"):
            pytest.fail(reason)
        pytest.skip(reason)


def _run(*command):
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Running:
    """A client program that runs, and the lines that it printed so far."""

    def __init__(self, command, folder, data, control, *arguments):
        self._command = [*command, "--data", data, "--control", control, *map(str, arguments)]
        self._joined = 0
        self._files = folder / "out.jsonl", folder / "errors.txt"
        self._out, self._errors = self._files
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=errors)
        return self

    def __exit__(self, kind, error, traceback):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def lines(self):
        """What was said since it joined."""
        whole = self._out.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()][self._joined :]

    def join(self, publisher, relay=None):
        """Until it has done all that it does at the beginning of a session."""
        pump = relay.pump if relay else lambda: None
        seen = (lambda: relay.subscriptions) if relay else (lambda: publisher.viewers)
        wait_for(lambda: pump() or seen(), "the viewer")
        publisher.send(make_restored(make_volume(channel="to join")))
        self.wait_for("volume", pump=pump)
        self._joined = len(self.lines)

    def of(self, *kinds):
        """What was said of some kinds of event."""
        return [line for line in self.lines if line["event"] in kinds]

    def wait_for(self, kind, count=1, pump=lambda: None):
        """The events of a kind, when there are so many; `pump` is called while waiting."""

        def come():
            pump()
            found = self.of(kind)
            assert len(found) >= count or self._process.poll() is None, self.said()
            return found if len(found) >= count else None

        try:
            return wait_for(come, f"{count} x {kind}", timeout_s=30)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.said()}") from error

    def ended(self):
        """Exit status and standard error, when it has ended by itself."""
        return self._process.wait(30), self._errors.read_text(encoding="utf-8", errors="replace")

    def said(self):
        """For the message of a failure."""
        said = [file.read_text(encoding="utf-8", errors="replace") for file in self._files]
        return f"said: {said[0][-2000:]}\n{said[1][-2000:]}"


class Relay:
    """Passes on what a publisher sends, but for what `drops(topic, header)` says.

    Works while `pump` is called.
    """

    def __init__(self, publisher_endpoint, *topics):
        self._upstream = publisher_endpoint
        self._topics = topics
        self.drops = lambda topic, header: False
        self.subscriptions = set()
        self._passed = []

    def __enter__(self):
        self._context = zmq.Context()
        self._source = self._context.socket(zmq.SUB)
        self._source.rcvhwm = 0
        for topic in self._topics:
            self._source.subscribe(topic)
        self._source.connect(self._upstream)
        self._viewers = bound(self._context, zmq.XPUB)
        self.endpoint = self._viewers.last_endpoint.decode()
        return self

    def __exit__(self, kind, error, traceback):
        self._context.destroy(linger=0)

    def pump(self):
        """Pass on what has come."""
        while self._viewers.poll(0):
            self.subscriptions.add(self._viewers.recv()[1:].decode())
        while self._source.poll(0):
            frames = self._source.recv_multipart()
            if not self.drops(frames[0].decode(), json.loads(frames[1])):
                self._viewers.send_multipart(frames)
                self._passed.append(frames)

    def repeat(self):
        """Send all that was passed on once more."""
        for frames in self._passed:
            self._viewers.send_multipart(frames)


class Hostile:
    """A data port and a control port that say whatever a test wants."""

    def __enter__(self):
        self._context = zmq.Context()
        self._data = bound(self._context, zmq.XPUB)
        self._control = bound(self._context, zmq.ROUTER)
        self.endpoints = tuple(s.last_endpoint.decode() for s in (self._data, self._control))
        self.subscriptions = set()
        self.replies = []  # the next ones, to whatever is asked
        return self

    def __exit__(self, kind, error, traceback):
        self._context.destroy(linger=0)

    def wait_for_viewer(self):
        """Until somebody has made its subscriptions."""
        wait_for(lambda: self.pump() or "system/" in self.subscriptions, "the viewer")

    def send(self, frames):
        """On the data port."""
        self._data.send_multipart(frames)

    def pump(self):
        """Answer what was asked."""
        while self._data.poll(0):
            self.subscriptions.add(self._data.recv()[1:].decode())
        while self.replies and self._control.poll(0):
            identity, *_ = self._control.recv_multipart()
            self._control.send_multipart([identity, *self.replies.pop(0)])


def bound(context, kind):
    """A socket that loses nothing, on a free port."""
    socket = context.socket(kind)
    socket.sndhwm = 0
    socket.bind("tcp://127.0.0.1:*")
    return socket


def malformed_messages(topic, header, planes):
    """What isn't of the protocol, by name, made from a volume of (3, 4, 5) voxels of 16 bits."""

    def changed(**changes):
        return [topic, json.dumps(header | changes).encode(), *planes]

    def lacking(name):
        less = {key: value for key, value in header.items() if key != name}
        return [topic, json.dumps(less).encode(), *planes]

    def system(name, **body):
        return [f"system/{name}/".encode(), json.dumps({"session": "s"} | body).encode()]

    deep = b"[" * 100_000
    nested = b'{"session": "s", "acquisition": "a", "type": "uint16", "channels": [], "shape": '
    start = {"acquisition": "a", "type": "uint16", "shape": [1, 2, 3]}
    skip = {"session": "s", "acquisition": "a", "position": "0", "channel": "c", "time": 0}
    cases = {
        "no header": [topic],
        "a header that isn't UTF-8": [topic, b'{"session": "\xff\xfe"}', *planes],
        "a header that isn't JSON": [topic, b"{not json", *planes],
        "an empty header": [topic, b"", *planes],
        "half a header": [topic, json.dumps(header).encode()[:-20], *planes],
        "a list as header": [topic, b"[1, 2]", *planes],
        "an endless list": [topic, deep, *planes],
        "endless objects": [topic, b'{"a":' * 100_000, *planes],
        "another version": changed(v=2),
        "a version in words": changed(v="one"),
        "no planes": [topic, json.dumps(header).encode()],
        "a plane too few": [topic, json.dumps(header).encode(), *planes[:-1]],
        "a plane too many": [topic, json.dumps(header).encode(), *planes, planes[0]],
        "a short plane": [topic, json.dumps(header).encode(), *planes[:-1], planes[0][:-1]],
        "a long plane": [topic, json.dumps(header).encode(), *planes[:-1], planes[0] + b"\0"],
        "an empty plane": [topic, json.dumps(header).encode(), *planes[:-1], b""],
        "packed planes": changed(encoding="blosc2"),
        "a heartbeat without numbers": system("heartbeat"),
        "a heartbeat with a list": system("heartbeat", sequences=[1]),
        "a heartbeat with a negative number": system("heartbeat", sequences={topic.decode(): -1}),
        "a heartbeat of nobody": [b"system/heartbeat/", b'{"sequences": {}}'],
        "a start without channels": system("start", **start),
        "a start with nameless channels": system("start", **start, channels=[1]),
        "a start with an endless shape": [
            b"system/start/",
            nested + deep[:9000] + b"]" * 9000 + b"}",
        ],
        "an end without reason": system("end", acquisition="a"),
        "a skip without reason": [b"skipped/0/c/", json.dumps(skip).encode()],
    }
    for name in (
        "session",
        "sequence",
        "shape",
        "type",
        "position",
        "channel",
        "time",
        "acquisition",
    ):
        cases[f"no {name}"] = lacking(name)
        cases[f"{name} is null"] = changed(**{name: None})
        cases[f"{name} is an object"] = changed(**{name: {"a": 1}})
    for number in (-1, 1.5, True, "1", 2**53, 2**70, 1e300):
        cases[f"sequence is {number!r}"] = changed(sequence=number)
    for shape in ([], [12, 5], [1, 3, 4, 5], [3, 4, -5], [0, 4, 5], [3, 2**40, 2**40], [3, 4.5, 5]):
        cases[f"shape is {shape}"] = changed(shape=shape)
    for shape in ([2**31, 2**31, 2**31], [3, 2**62, 4], [3, [4], 5], [3, "4", 5], [4, 3, 5], "345"):
        cases[f"shape is {shape}"] = changed(shape=shape)
    for kind in ("uint32", "object", "uint8", "float32", ">u2", "", 16):
        cases[f"type is {kind!r}"] = changed(type=kind)
    return cases
