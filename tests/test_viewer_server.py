"""The page's server, over real sockets, with a publisher of real messages behind it."""

import asyncio
import json
import struct
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from live_restore.errors import ViewerError
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.viewer.feed import Feed
from live_restore.viewer.server import serve_page
from live_restore.volume import Skipped, VolumeKey
from tests.conftest import make_info, make_restored, make_volume

PATIENCE_S = 20


@contextmanager
def publishing(endpoints):
    data, control = endpoints
    with Publisher(PublishSettings(endpoint=data, control=control)) as publisher:
        yield publisher


def restored(time=0, channel="DAPI", shape=(3, 4, 5), **changes):
    data = np.random.default_rng(time).integers(0, 60000, shape).astype("u2")
    return make_restored(make_volume(data, time, channel, **changes))


@asynccontextmanager
async def served(endpoints, **settings):
    """A feed and the address of its pages."""
    feed = Feed(*endpoints, **settings)
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_page(feed, 0, stop, address.set_result))
    try:
        await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield feed, await address
    finally:
        stop.set()
        await task


class Page:
    """Speaks as the page does."""

    def __init__(self, socket):
        self.socket = socket
        self.header = {}
        self.statuses = 0

    async def message(self):
        body = await asyncio.wait_for(self.socket.recv(), PATIENCE_S)
        (length,) = struct.unpack_from("<I", body)
        self.header = json.loads(body[4 : 4 + length])
        self.body = body[4 + length :]
        return self.header

    async def drawn(self):
        await self.socket.send(json.dumps({"drawn": self.header["number"]}))

    async def wish(self, revision=1, **view):
        await self.socket.send(json.dumps({"view": {"revision": revision, **view}}))

    async def until(self, condition):
        """Draw what comes, until a message is as it should be; that one isn't acknowledged."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.message()):
                await self.drawn()
        return self.header

    async def picture(self, **wanted):
        def fits(header):
            picture = header.get("picture")
            return picture is not None and all(picture[k] == v for k, v in wanted.items())

        return (await self.until(fits))["picture"]

    def image(self, index=0):
        one = self.header["images"][index]
        count = int(np.prod(one["shape"]))
        half = np.frombuffer(self.body, "<f2", count, one["offset"]).reshape(one["shape"])
        return half.astype(float) * one["scale"] + one["base"]


@asynccontextmanager
async def opened(address):
    url = address.replace("http", "ws") + "live"
    async with connect(url, max_size=None, origin=address.rstrip("/")) as socket:
        yield Page(socket)


def run(coroutine):
    # As the command does: ZeroMQ needs this loop on Windows.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(coroutine)


def test_a_page_gets_what_was_published_before_it_and_then_what_is_new(endpoints):
    async def story():
        with publishing(endpoints) as publisher:
            publisher.send(make_info())
            publisher.send(restored(0))
            async with served(endpoints) as (_, address), opened(address) as page:
                picture = await page.picture(time=0)
                assert [one["kind"] for one in page.header["images"]] == ["raw", "restored"]
                data = restored(0).raw.data
                np.testing.assert_allclose(page.image(0), data[1], atol=60)
                np.testing.assert_allclose(page.image(1), data[1] // 2, atol=60)
                assert set(picture["headers"]) == set(picture["age_ms"]) == {"raw", "restored"}
                await page.drawn()
                publisher.send(restored(1))
                picture = await page.picture(time=1)
                assert picture["is_live"]
                assert page.header["status"]["points"] == [["run", 0], ["run", 1]]

    run(story())


def test_nothing_is_sent_before_the_last_message_was_drawn_and_then_the_newest(endpoints):
    async def story():
        with publishing(endpoints) as publisher:
            publisher.send(restored(0))
            async with served(endpoints) as (feed, address), opened(address) as page:
                await page.picture(time=0)  # not acknowledged
                for time in range(1, 6):
                    publisher.send(restored(time))
                async with asyncio.timeout(PATIENCE_S):
                    while feed.timeline.num_received < 6:
                        await asyncio.sleep(0.01)
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(page.socket.recv(), 1.5)  # nor a status
                await page.drawn()
                header = await page.message()
                assert header["picture"]["time"] == 5

    run(story())


def test_channels_take_turns(endpoints):
    async def story():
        with publishing(endpoints) as publisher:
            channels = ("a", "b", "c")
            for channel in channels:
                publisher.send(restored(0, channel))
            async with served(endpoints) as (_, address), opened(address) as page:
                seen = []
                for time in range(1, 4):
                    for _ in channels:
                        seen.append((await page.picture())["channel"])
                        await page.drawn()
                        publisher.send(restored(time, "a"))  # one that is always new
                assert seen[:3] == ["a", "b", "c"]
                assert set(seen[3:]) == {"a"}

    run(story())


def test_only_what_is_wished_is_sent(endpoints):
    async def story():
        with publishing(endpoints) as publisher:
            for channel in ("a", "b"):
                publisher.send(restored(0, channel))
            async with served(endpoints) as (_, address), opened(address) as page:
                await page.picture()
                await page.drawn()
                await page.wish(4, channels=["b"], kinds=["restored"], mode="max")
                picture = await page.picture(revision=4)
                assert picture["channel"] == "b"
                images = page.header["images"]
                assert [(i["kind"], i["plane"]) for i in images] == [
                    ("restored", "xy"),
                    ("restored", "xz"),
                    ("restored", "yz"),
                ]
                await page.drawn()
                await page.wish(5, mode="block", kinds=["raw"])
                await page.picture(revision=5)
                assert page.header["images"][0]["shape"] == [3, 4, 5]

    run(story())


def test_looking_back_shows_the_past_while_new_volumes_come(endpoints):
    async def story():
        with publishing(endpoints) as publisher:
            async with served(endpoints) as (_, address), opened(address) as page:
                for time in range(4):
                    publisher.send(restored(time))
                    await page.picture(time=time)
                    await page.drawn()
                await page.wish(1, point=["run", 1])
                assert not (await page.picture(time=1))["is_live"]
                await page.drawn()
                publisher.send(restored(4))
                header = await page.until(lambda h: len(h["status"]["points"]) == 5)
                assert "picture" not in header
                await page.drawn()
                await page.wish(2)
                assert (await page.picture(revision=2))["time"] == 4

    run(story())


def test_what_nobody_holds_any_more_disappears_from_the_timeline(endpoints):
    async def story():
        data, control = endpoints
        settings = PublishSettings(endpoint=data, control=control, history_mb=1)
        with Publisher(settings) as publisher:
            async with (
                served(endpoints, history_bytes=1) as (_, address),
                opened(address) as page,
            ):
                for time in range(4):
                    publisher.send(restored(time, shape=(4, 300, 300)))
                    await page.picture(time=time)
                    await page.drawn()
                await page.wish(1, point=["run", 0])
                await page.picture(time=0)
                assert page.header["images"] == []
                assert page.header["picture"]["headers"] == {}
                await page.drawn()
                header = await page.until(lambda h: ["run", 0] not in h["status"]["points"])
                assert ["run", 3] in header["status"]["points"]

    run(story())


def test_another_position_and_a_skipped_volume_are_told(endpoints):
    async def story():
        with publishing(endpoints) as publisher:
            info = make_info(positions=("left", "right"), num_times=None)
            for position in info.positions:
                one = restored(0)
                key = VolumeKey("run", position, 0, "DAPI")
                publisher.send(
                    type(one)(key, info, one.data, one.raw, one.model, (0.0, 1.0), {"restoring": 1})
                )
            async with served(endpoints) as (_, address), opened(address) as page:
                await page.picture(position="left")
                await page.drawn()
                await page.wish(1, position="right")
                await page.picture(position="right")
                await page.drawn()
                publisher.send(Skipped(VolumeKey("run", "right", 1, "DAPI"), "no memory"))
                header = await page.until(lambda h: h["status"]["skipped"] == 1)
                assert header["status"]["last_skipped"]["reason"] == "no memory"

    run(story())


def test_a_restarted_daemon_is_followed(endpoints):
    async def story():
        async with served(endpoints) as (_, address), opened(address) as page:
            header = await page.message()
            assert header["status"]["silence_ms"] is None
            await page.drawn()
            for time in (3, 0):
                with publishing(endpoints) as publisher:
                    publisher.send(restored(time))
                    picture = await page.picture(time=time)
                    await page.drawn()
                    session = page.header["status"]["session"]
                    assert picture["session"] == session == publisher.session

    run(story())


def test_pages_of_one_viewer_share_what_is_fetched(endpoints, monkeypatch):
    asked = []
    fetch = Feed._fetch

    async def counted(self, name):
        asked.append(name)
        return await fetch(self, name)

    monkeypatch.setattr(Feed, "_fetch", counted)

    async def story():
        with publishing(endpoints) as publisher:
            async with (
                served(endpoints) as (_, address),
                opened(address) as one,
                opened(address) as other,
            ):
                publisher.send(restored(0))
                await asyncio.gather(one.picture(time=0), other.picture(time=0))
        assert asked
        assert len(asked) == len(set(asked))

    run(story())


def test_a_raw_volume_alone_is_shown_as_such(endpoints, monkeypatch):
    fetch = Feed._fetch

    async def only_raw(self, name):
        return await fetch(self, name) if name.kind == "raw" else None

    monkeypatch.setattr(Feed, "_fetch", only_raw)

    async def story():
        with publishing(endpoints) as publisher:
            async with served(endpoints) as (_, address), opened(address) as page:
                for time in range(2):  # the first one may be found held, whole
                    publisher.send(restored(time))
                    picture = await page.picture(time=time)
                    await page.drawn()
                assert set(picture["headers"]) == {"raw"}

    run(story())


@pytest.mark.parametrize(
    "nonsense", ["", "{", "[]", "7", '{"view": 3}', '{"view": {"z": 7}}', '{"drawn": "x"}', b"\xff"]
)
def test_nonsense_from_a_page_harms_nobody(endpoints, nonsense):
    async def story():
        with publishing(endpoints) as publisher:
            publisher.send(restored(0))
            async with served(endpoints) as (_, address), opened(address) as page:
                await page.socket.send(nonsense)
                await page.picture(time=0)

    run(story())


# The web server


async def asked(address, path="/", **headers):
    host = address.removeprefix("http://").rstrip("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    lines = {"Host": host, **headers}
    text = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    writer.write(f"{text}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
    body = (await reader.readexactly(length)).decode()
    writer.close()
    await writer.wait_closed()
    return head + body


def test_the_page_needs_nothing_from_elsewhere(endpoints):
    async def story():
        async with served(endpoints) as (_, address):
            page = await asked(address)
            assert page.startswith("HTTP/1.1 200")
            assert "default-src 'none'" in page
            for name in ("main.js", "style.css", "icon.svg"):
                assert name in page
                found = await asked(address, f"/{name}")
                assert found.startswith("HTTP/1.1 200")
                assert "nosniff" in found

    run(story())


@pytest.mark.parametrize("path", ["/../server.py", "/nothing", "//etc/passwd", "/%2e%2e/server.py"])
def test_nothing_but_the_page_is_served(endpoints, path):
    async def story():
        async with served(endpoints) as (_, address):
            assert (await asked(address, path)).startswith("HTTP/1.1 404")

    run(story())


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example:80"}, {"Origin": "https://evil.example"}, {"Origin": "null"}]
)
def test_other_sites_are_refused(endpoints, headers):
    async def story():
        async with served(endpoints) as (_, address):
            assert (await asked(address, **headers)).startswith("HTTP/1.1 403")
            with pytest.raises(InvalidStatus):
                async with connect(address.replace("http", "ws") + "live", origin="http://a.b"):
                    pass

    run(story())


def test_an_ssh_tunnels_other_port_is_welcome(endpoints):
    async def story():
        async with served(endpoints) as (_, address):
            headers = {"Host": "localhost:9999", "Origin": "http://localhost:9999"}
            assert (await asked(address, **headers)).startswith("HTTP/1.1 200")

    run(story())


def test_a_taken_port_is_an_error_that_says_what_to_do(endpoints):
    async def story():
        async with served(endpoints) as (_, address):
            port = int(address.rstrip("/").rpartition(":")[2])
            stop = asyncio.Event()
            with pytest.raises(ViewerError, match=f"port {port}.*--port"):
                await serve_page(Feed(*endpoints), port, stop, print)

    run(story())
