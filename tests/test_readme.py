"""What README and docs say beside commands, which tests/test_documented_commands.py executes."""

import itertools
import json
import re
import shlex
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest

from live_restore.cli.main import build_parser
from live_restore.interfaces import StopSignal
from live_restore.plane_protocol import PlaneHeader
from live_restore.profile import IngestSource, PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.sources.ingest import Ingest
from live_restore.train.config import check_config
from live_restore.volume import Plane, SourceState
from tests.conftest import make_restored, wait_for

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
MICRO_MANAGER = (ROOT / "docs" / "micro-manager.md").read_text(encoding="utf-8")
FILES = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
CALIBRATION = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
TRUST = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
LADDER = (ROOT / "docs" / "ladder.md").read_text(encoding="utf-8")
VIEWER = (ROOT / "docs" / "viewer.md").read_text(encoding="utf-8")
CLIENT = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def commands(text):
    """Our commands in the shell blocks of a document."""
    found = [
        command.partition("  #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        for command in line.split("&&")
    ]
    return [command for command in found if command.startswith("live-restore ")]


COMMANDS = commands(README)


def test_the_readme_has_the_two_commands_that_do_everything():
    assert "pip install . && live-restore demo" in README
    assert 'pip install ".[test]" && pytest' in README


@pytest.mark.parametrize(
    "command",
    [
        command
        for text in (README, MODELS, MICRO_MANAGER, FILES, CALIBRATION, TRUST, LADDER, VIEWER)
        for command in commands(text)
    ],
)
def test_each_documented_command_is_one(command):
    build_parser().parse_args(shlex.split(command.partition(">")[0])[1:])


def test_the_documented_training_configurations_are_valid():
    whole, thinning = re.findall(r"```toml\n(.*?)```", MODELS, re.DOTALL)
    table = tomllib.loads(whole)
    assert check_config(table, "docs").validation.fields == ("cell_07", "cell_11")
    del table["pairs"]
    assert check_config(table | tomllib.loads(thinning), "docs").thinning.dose == (0.02, 0.3)


@pytest.mark.parametrize("file", ["README.md", "docs/protocol.md"])
def test_the_python_client_runs_as_written(file, endpoints, capsys):
    text = (ROOT / file).read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert "tcp://127.0.0.1:5556" in code
    code = code.replace("tcp://127.0.0.1:5556", endpoints[0])
    settings = PublishSettings(endpoint=endpoints[0], control=endpoints[1])
    names = {}
    with Publisher(settings) as publisher:
        client = threading.Thread(target=exec, args=(code, names))
        client.start()
        wait_for(lambda: publisher.viewers, "the client")
        publisher.send(make_restored())
        client.join(20)
        assert not client.is_alive()
    if file == "README.md":
        assert "0 DAPI (3, 4, 5)" in capsys.readouterr().out
    else:
        names["socket"].context.destroy(linger=0)
        assert (names["volume"] == make_restored().data).all()


@pytest.mark.parametrize("number", range(5))
def test_the_documented_viewers_run_as_written(number, endpoints, capsys):
    code = re.findall(r"```python\n(.*?)```", CLIENT, re.DOTALL)[number]
    settings = PublishSettings(endpoint=endpoints[0], control=endpoints[1])
    code = code.replace("tcp://127.0.0.1:5556", endpoints[0])
    code = code.replace("tcp://127.0.0.1:5557", endpoints[1])
    with Publisher(settings) as publisher:
        publisher.send(make_restored())
        client = threading.Thread(target=exec, args=(code, {}))
        client.start()
        for time_point in itertools.count(1):
            if not client.is_alive() or time_point > 400:
                break
            # The third has the newest volume at once, from before it: another would race with it.
            if publisher.viewers and number != 2:
                publisher.send(make_restored(time=time_point))
            client.join(0.05)
        assert not client.is_alive()
    printed = capsys.readouterr().out
    assert ["(3, 4, 5)", "no word for 0", "0 20", "DAPI (3, 4, 5)", "0 DAPI 0 (3, 4, 5)"][
        number
    ] in printed


def test_the_documented_sender_of_planes_runs_as_written(endpoints):
    code = re.findall(r"```python\n(.*?)```", PROTOCOL, re.DOTALL)[1]
    assert IngestSource(kind="ingest").endpoint in code
    events, stop, names = [], StopSignal(), {}
    with Ingest(IngestSource(kind="ingest", endpoint=endpoints[0])) as source:
        exec(code.replace("tcp://127.0.0.1:5558", endpoints[0]), names)
        for event in source.events(stop):
            if not isinstance(event, SourceState):  # which comes once a second
                events.append(event)
            if sum(isinstance(one, Plane) for one in events) == 10:
                stop.set()
    names["socket"].context.destroy(linger=0)
    assert events[0].shape_zyx == (10, 64, 64)
    assert events[0].voxel_size_um == (0.3, 0.1, 0.1)
    np.testing.assert_array_equal(
        [e for e in events if isinstance(e, Plane)][-1].data, names["plane"]
    )


def test_the_documented_schema_of_planes_is_the_present_one():
    schema = json.dumps(PlaneHeader.model_json_schema(), indent=2, sort_keys=True) + "\n"
    assert (ROOT / "docs" / "plane.schema.json").read_text(encoding="utf-8") == schema


def test_the_documented_links_exist():
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
