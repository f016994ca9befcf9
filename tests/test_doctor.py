"""What a bug report needs: found without a daemon, beside one, and where much is missing."""

import subprocess

import pytest

from live_restore import doctor
from live_restore.cli.main import main
from live_restore.ledger import Ledger, Origin
from live_restore.profile import PublishSettings, load_profile
from live_restore.record import ledger_file, open_ledger
from live_restore.sinks.publisher import Publisher
from live_restore.volume import VolumeKey
from tests.conftest import live_restore


def profile(tmp_path, endpoints=("tcp://127.0.0.1:5556", "tcp://127.0.0.1:5557"), source=None):
    file = tmp_path / "p.toml"
    source = source or 'kind = "folder"\npath = "watched"'
    file.write_text(
        f"[source]\n{source}\n"
        f'[publish]\nendpoint = "{endpoints[0]}"\ncontrol = "{endpoints[1]}"\n'
        '[write]\nfolder = "out"\n'
    )
    return file


def found(capsys, *arguments):
    assert main(["doctor", *(str(one) for one in arguments)]) == 0
    return capsys.readouterr().out


def test_it_is_one_block_with_versions_computer_and_gpu(capsys):
    text = found(capsys)
    lines = text.splitlines()
    assert lines[0] == lines[-1] == "```"
    for part in ("live_restore: ", "torch: ", "numpy: ", "Python: ", "[GPU]", "built with", "GiB"):
        assert part in text
    assert "[ports]" not in text


def test_a_profiles_ports_folders_and_source_are_looked_at(tmp_path, capsys, endpoints):
    (tmp_path / "watched").mkdir()
    file = profile(tmp_path, endpoints)
    assert f"{endpoints[0]}: nobody listens" in found(capsys, file)
    with Publisher(PublishSettings(endpoint=endpoints[0], control=endpoints[1])):
        text = found(capsys, file)
    assert f"{endpoints[0]}: somebody listens" in text
    assert f"{endpoints[1]}: somebody listens" in text
    assert "watched is there" in text
    assert "GiB free" in text
    assert "ledger: none" in text


def test_the_last_problems_are_told(tmp_path, capsys):
    file = profile(tmp_path)
    settings = load_profile(file)
    with open_ledger(settings) as ledger:
        assert isinstance(ledger, Ledger)
        origin, key = Origin("cell.tif", ""), VolumeKey("cell 3", "0", 7, "GFP")
        ledger.note_seen(origin, key)
        ledger.note_skipped(origin, key, "plane 4 never came", is_final=True)
    text = found(capsys, file)
    assert "1 seen" in text
    assert "plane 4 never came" in text
    assert str(ledger_file(settings).name) in text


def test_where_something_cannot_be_found_out_that_is_said(tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise subprocess.TimeoutExpired("torch", 60)

    monkeypatch.setattr(doctor.subprocess, "run", broken)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "nvidia-smi")
    file = profile(tmp_path, source='kind = "micromanager"\nport = 1')
    text = found(capsys, file)
    assert "PyTorch: ? " in text
    assert "driver: ? " in text
    assert "micromanager: ? nothing listens on port 1" in text


def test_a_profile_that_is_wrong_is_part_of_the_report(tmp_path, capsys):
    file = tmp_path / "p.toml"
    file.write_text("[sorce]\n")
    text = found(capsys, file)
    assert "[program]" in text
    assert "did you mean 'source'" in text


def test_the_user_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.Path, "home", lambda: tmp_path)
    assert doctor._short(tmp_path / "scope" / "today") == "~/scope/today"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_needs_no_torch(arguments):
    code = (
        "import sys\n"
        "from live_restore.cli.main import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'zmq', 'scipy', 'rich', 'matplotlib', 'pydantic', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_command_runs_as_a_user_runs_it():
    done = live_restore("doctor", "demo")
    assert done.returncode == 0
    assert "simulated: needs nothing" in done.stdout
