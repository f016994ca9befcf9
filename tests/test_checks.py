"""What `live-restore check` finds of a Micro-Manager, with the real client."""

from pathlib import Path

import pytest

from live_restore.checks import check_profile
from live_restore.profile import parse_profile
from live_restore.sources.bridge.inquiry import Inquiry
from tests.followed import MicroManagerProcess


def findings(port):
    text = f'[source]\nkind = "micromanager"\nport = {port}\n'
    return {f.what: f for f in check_profile(parse_profile(text, Path("p.toml")))}


def test_a_running_micro_manager_tells_what_will_be_followed():
    with MicroManagerProcess() as micro_manager:
        found = findings(micro_manager.port)
    assert found["source.port"].is_good
    assert "Micro-Manager 2.0.3" in found["source.port"].found
    assert found["display"].is_good
    assert "/data/cells" in found["saving"].found
    assert "2048 x 2048 every 10 ms: at most 839 MB/s" in found["rate"].found
    assert "saved files are read instead" in found["rate"].found
    assert found["rate"].is_good


def test_no_micro_manager_is_said_with_its_remedy_and_the_rest_is_tried():
    with MicroManagerProcess() as micro_manager:
        port = micro_manager.port
    found = findings(port)
    assert not found["source.port"].is_good
    assert "Run server" in found["source.port"].found
    assert found["model.path"].is_good


def test_another_program_on_the_port_is_not_taken_for_micro_manager(monkeypatch):
    import socket

    from live_restore.sources.bridge import inquiry

    monkeypatch.setattr(inquiry, "_ANSWER_S", 6.0)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        found = findings(stranger.getsockname()[1])
    assert not found["source.port"].is_good
    assert "doesn't answer as Micro-Manager" in found["source.port"].found


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param({}, None, id="nothing told"),
        pytest.param({"height": 1000, "width": 1000, "bytes_per_pixel": 2}, None, id="no exposure"),
        pytest.param(
            {"height": 1000, "width": 1000, "bytes_per_pixel": 2, "exposure_ms": 20.0},
            100.0,
            id="2 MB in 20 ms",
        ),
    ],
)
def test_the_rate_is_known_where_the_camera_is(told, expected):
    assert Inquiry(**told).most_mb_per_s == expected
