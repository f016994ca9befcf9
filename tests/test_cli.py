"""The commands, as a user runs them."""

import json
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import tifffile

from live_restore.cli.demo_ladder import Rung, turning_points
from live_restore.cli.profiles import find_profile
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.sources.stacks.tiff import TiffStack
from tests.conftest import DATA, daemon, live_restore, make_restored, wait_for


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys; from live_restore.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'zmq', 'tifffile', 'pycromanager', 'scipy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("demo", "run", "check", "listen", "restore", "train"):
        assert command in done.stdout


def test_the_client_needs_neither_torch_nor_a_microscope():
    code = (
        "import sys\n"
        "for name in ('torch', 'pycromanager', 'tifffile', 'scipy', 'rich', 'watchdog', 'safetensors', 'platformdirs', 'imagecodecs'):\n"
        "    sys.modules[name] = None\n"
        "import live_restore.client"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_demo_gains_on_every_volume():
    done = live_restore("demo", "--volumes", 3, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["volumes_received"] == 3
    assert result["psnr_restored_db"] >= result["psnr_raw_db"] + 4
    assert result["latency_s"].keys() == {"median", "p95"}
    for volume in result["volumes"]:
        assert volume["ssim_restored"] > volume["ssim_raw"]
        assert volume["latency_s"] > 0
    # The verdict turns red where the true error crosses the target, give or take one step of the ladder.
    rungs = [Rung(**one) for one in result["ladder"]]
    assert len(rungs) == 2 * 8
    for channel, (crossed, turned) in turning_points(rungs).items():
        photons = [one.photons for one in rungs if one.channel == channel]
        assert abs(photons.index(crossed) - photons.index(turned)) <= 1, channel
    assert not any(one.verdict == "green" and one.true_nrmse > one.target for one in rungs)
    assert any(one.verdict == "green" for one in rungs)


def profile_in(folder, endpoints, **tables):
    """The shipped watched-folder profile, on free ports."""
    text = find_profile("watched-folder").read_text(encoding="utf-8")
    text = text.replace("tcp://127.0.0.1:5556", endpoints[0]).replace(
        "tcp://127.0.0.1:5557", endpoints[1]
    )
    path = folder / "watched-folder.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_real_stacks_dropped_into_the_watched_folder_are_restored(tmp_path, endpoints):
    """`live-restore run profiles/watched-folder.toml`."""
    watched, written = tmp_path / "today", tmp_path / "today-restored"
    watched.mkdir()
    stacks = sorted(DATA.glob("*.tif"))
    lines = []
    with daemon(profile_in(tmp_path, endpoints)) as process:
        reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
        reader.start()
        wait_for(lambda: any("watching" in line for line in lines), "the daemon")
        listener = subprocess.Popen(
            [sys.executable, "-m", "live_restore", "listen", endpoints[0], "--control", endpoints[1],
             "--json", "--count", str(len(stacks)), "--timeout", "100"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert "listening" in listener.stderr.readline()
        for stack in stacks:
            shutil.copy(stack, watched)
        (watched / "notes.txt").write_text("hello")
        (watched / "empty.tif").write_bytes(b"")
        (watched / "cut.tif").write_bytes(stacks[0].read_bytes()[:100_000])
        tifffile.imwrite(watched / "photo.tif", np.zeros((32, 32, 3), "u1"), photometric="rgb")
        tifffile.imwrite(watched / "flat.tif", np.zeros((32, 32), "u2"))
        heard, _ = listener.communicate(timeout=120)
        wait_for(
            lambda: len([x for x in lines if "WARNING" in x]) >= 5, f"five warnings in {lines}"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        reader.join(10)
    headers = {h["acquisition"]: h for h in map(json.loads, heard.splitlines())}
    assert headers.keys() == {stack.stem for stack in stacks}
    for stack in stacks:
        with (
            TiffStack(stack, "raw") as raw,
            TiffStack(written / f"{stack.stem}.ome.tif", "x") as out,
        ):
            assert out.info.shape_zyx == raw.info.shape_zyx
            assert out.info.voxel_size_um == pytest.approx(raw.info.voxel_size_um)
            header = headers[stack.stem]
            assert header["shape"] == list(raw.info.shape_zyx)
            assert header["voxel_size_um"] == pytest.approx(raw.info.voxel_size_um)
    assert len(list(written.rglob("*"))) == len(stacks)
    warnings = [line for line in lines if "WARNING" in line]
    assert len(warnings) == 5
    for name in ("notes.txt", "empty.tif", "cut.tif", "photo.tif", "flat.tif"):
        assert len([w for w in warnings if name in w]) == 1
    assert not [line for line in lines if "Traceback" in line or "ERROR" in line]


def test_check_of_a_good_profile_is_all_ok(tmp_path, endpoints):
    (tmp_path / "today").mkdir()
    done = live_restore("check", profile_in(tmp_path, endpoints))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok") == 5
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("path = \"today\"", "pth = \"today\"", ["source.pth", "'today'", "did you mean 'path'"], id="key"),
        pytest.param('"default"', '"mine.safetensors"', ["model.path", "mine.safetensors", "no such file"], id="model"),
        pytest.param('"today"', '"nowhere"', ["source.path", "nowhere", "isn't there"], id="folder"),
        pytest.param('"auto"', '"cuda:9"', ["cuda:9", "GPUs found", "nvidia-smi"], id="device"),
        pytest.param('"today-restored"', '"watched-folder.toml/x"', ["write.folder", "can't be written"], id="write"),
    ],
)  # fmt: skip
def test_check_names_key_value_and_remedy_and_exits_with_2(old, new, expected, tmp_path, endpoints):
    (tmp_path / "today").mkdir()
    path = profile_in(tmp_path, endpoints)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = live_restore("check", path)
    assert done.returncode == 2
    said = " ".join((done.stdout + done.stderr).replace("│", " ").split())
    for part in expected:
        assert part in said


def test_a_shipped_profile_counts_paths_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = live_restore("check", "watched-folder")
    assert done.returncode == 2
    assert str(tmp_path / "today") in done.stdout


def test_the_shipped_profiles_are_listed():
    done = live_restore("profiles")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "cpu-only",
        "demo",
        "democam",
        "ingest",
        "micromanager",
        "multi-gpu",
        "own-acquisition",
        "watched-folder",
    ]
    assert live_restore("profiles", "nonesuch").returncode == 2


def test_check_finds_an_endpoint_in_use(tmp_path, endpoints):
    import zmq

    (tmp_path / "today").mkdir()
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind(endpoints[0])
        done = live_restore("check", profile_in(tmp_path, endpoints))
    assert done.returncode == 2
    assert "publish.endpoint" in done.stdout


def test_exit_codes_tell_what_went_wrong(tmp_path, endpoints):
    assert live_restore("run", tmp_path / "none.toml").returncode == 2
    assert live_restore("run", profile_in(tmp_path, endpoints)).returncode == 3  # no folder "today"
    assert live_restore("nonsense").returncode == 2
    assert live_restore("listen", endpoints[0], "--timeout", 0.3).returncode == 1
    without_control = live_restore("listen", endpoints[0], "--latest")
    assert without_control.returncode == 2
    assert "--control" in without_control.stderr


@pytest.mark.parametrize("option", ["--latest", "--compressed"])
def test_listen_gives_the_newest_and_compressed_volumes(endpoints, option):
    settings = PublishSettings(endpoint=endpoints[0], control=endpoints[1])
    with Publisher(settings) as publisher:
        publisher.send(make_restored())
        done = live_restore(
            "listen", endpoints[0], "--control", endpoints[1], option, "--json", "--count", 1,
            *(["--from-start"] if option == "--compressed" else []), "--timeout", 60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header = json.loads(done.stdout)
    assert header["sequence"] == 0
    assert header["encoding"] == ("blosc2" if option == "--compressed" else "raw")


def test_restore_continues_after_a_bad_file_and_says_which(tmp_path):
    inputs = tmp_path / "in"
    (inputs / "deep").mkdir(parents=True)
    shutil.copy(DATA / "stardist_img3d.tif", inputs / "deep" / "a [1].tif")
    (inputs / "bad.tif").write_bytes(b"II*\0nonsense")
    stack = np.random.default_rng(0).poisson(20, (2, 2, 5, 20, 22)).astype("u2")
    tifffile.imwrite(
        inputs / "b.ome.tif", stack, ome=True,
        metadata={"axes": "TCZYX", "Channel": {"Name": ["x", "y"]}, "PhysicalSizeX": 0.1,
                  "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.4},
    )  # fmt: skip
    out = tmp_path / "out"
    done = live_restore(
        "restore", inputs, tmp_path / "none.tif", "--output", out, "--dtype", "float32"
    )
    assert done.returncode == 1
    assert "5 volumes restored" in done.stderr
    assert "bad.tif" in done.stderr
    assert "none.tif: no such file" in done.stderr
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.tif")) == [
        *(f"in/b/b_t000{t}_{c}.ome.tif" for t in (0, 1) for c in "xy"),
        "in/deep/a [1].ome.tif",
    ]
    with TiffStack(out / "in" / "b" / "b_t0001_y.ome.tif", "b") as restored:
        assert restored.info.channels == ("y",)
        assert restored.info.voxel_size_um == pytest.approx((0.4, 0.1, 0.1))
        assert restored.info.dtype == np.float32


def test_restore_never_replaces_its_input(tmp_path):
    shutil.copy(DATA / "stardist_img3d.tif", tmp_path / "a.ome.tif")
    before = (tmp_path / "a.ome.tif").read_bytes()
    done = live_restore("restore", tmp_path / "a.ome.tif", "--output", tmp_path)
    assert done.returncode == 1
    assert "choose another --output" in done.stderr
    assert (tmp_path / "a.ome.tif").read_bytes() == before
