"""Archives that are restored as a whole, stopped, gone on with; here and on a cluster."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from live_restore import __version__
from live_restore.archive.cluster import _outcome, environments, problem_of_worker
from live_restore.archive.jobs import Recipe
from live_restore.archive.run import ArchiveRun, here, ledger_file
from live_restore.archive.search import find
from live_restore.archive.work import Workbench
from live_restore.errors import RestoreError
from live_restore.ledger import Ledger
from live_restore.profile import WriteSettings
from live_restore.restore.model import build_network, save_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.sinks.writer import Writer
from live_restore.sources.folder import acquisition_name
from live_restore.sources.layouts import Recognition
from live_restore.volume import Volume
from tests import growing_layouts as growing
from tests.conftest import ROOT, live_restore, wait_for
from tests.test_growing import WRITERS, volumes_of


@pytest.fixture
def archive(tmp_path):
    """A folder of stacks, some of them of several volumes, and a dataset."""
    folder = tmp_path / "archive"
    save(folder / "a.tif")
    save(folder / "day1" / "series.ome.tif", times=3, channels=("GFP", "DAPI"))
    dataset(folder / "day2" / "run_1")
    return folder


NAMES = [
    "a.ome.tif",
    *(f"day1/series/series_t000{t}_{c}.ome.tif" for t in range(3) for c in ("DAPI", "GFP")),
    *(f"day2/run_1/run_1_t000{t}_{c}.ome.tif" for t in range(2) for c in ("DAPI", "FITC")),
]


def save(path, times=1, channels=("GFP",), shape=(3, 24, 26), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 1000, (times, len(channels), *shape))
    metadata = {"axes": "TCZYX", "Channel": {"Name": list(channels)}}
    tifffile.imwrite(path, data.astype("u2"), ome=True, metadata=metadata)


def dataset(folder, writer=growing.write_mm_stack, **changes):
    folder.mkdir(parents=True)
    acquired = growing.images(shape=(20, 22), **changes)
    list(writer(folder, acquired, growing.Pieces(None)))
    return acquired


def results(folder):
    """Each result, to the byte."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Archive:
    """Restores in this process."""

    def __init__(self, output, model, **changes):
        self.recipe = Recipe(str(model.path), model.sha256, output, "cpu", **changes)
        self.file = ledger_file(output)
        self.reports = []

    def run(self, *inputs, replaces=False, pattern=None):
        recognition = Recognition(pattern=pattern, is_finished=True)
        found = list(find(inputs, self.recipe.output, recognition))
        with Ledger(self.file, is_written=True) as ledger, Workbench(self.recipe) as bench:
            run = ArchiveRun(
                self.recipe, ledger, lambda report, _: self.reports.append(report), replaces
            )
            run.run(found, here(bench))
        return run

    def names(self, *inputs):
        recognition = Recognition(is_finished=True)
        return [found.name for found in find(inputs, self.recipe.output, recognition)]


@pytest.fixture
def restoring(tmp_path, tiny_model):
    return Archive(tmp_path / "out", tiny_model)


def test_each_volume_becomes_a_file_named_as_the_daemons(archive, restoring):
    run = restoring.run(archive)
    assert sorted(results(restoring.recipe.output)) == sorted(NAMES)
    assert (run.num_restored, run.num_before, run.problems) == (11, 0, [])


def test_files_are_those_that_the_daemon_writes(archive, restoring, tiny_model, tmp_path):
    from tests.watching import Watching

    restoring.run(archive)
    with Watching(archive, settle_s=0.0) as watching:
        watching.wait_for("a", "day1/series", "day2/run_1")
    writer = Writer(WriteSettings(folder=tmp_path / "daemon"))
    with RcanRestorer(tiny_model, "cpu") as restorer:
        for volume in volumes_of(watching.events):
            assert isinstance(volume, Volume)
            writer.send(restorer.restore(volume))
    without_time = re.compile(rb'<M K="received_at">.*?</M>')
    ours, daemons = results(restoring.recipe.output), results(tmp_path / "daemon")
    assert sorted(ours) == sorted(daemons)
    for name, content in ours.items():
        expected, got = (without_time.split(one) for one in (daemons[name], content))
        # The time's length moves what follows it.
        assert len(expected) == len(got) == 2
        assert expected[0][-600:] == got[0][-600:]
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "daemon" / name),
            tifffile.imread(restoring.recipe.output / name),
        )


def test_what_was_restored_is_not_opened_again(archive, restoring, monkeypatch):
    restoring.run(archive)
    before = results(restoring.recipe.output)
    monkeypatch.setattr("live_restore.archive.contents.open_stack", None)
    monkeypatch.setattr("live_restore.archive.contents._volumes_of_dataset", None)
    run = restoring.run(archive)
    assert (run.num_restored, run.num_before, run.num_volumes) == (0, 11, 11)
    assert results(restoring.recipe.output) == before


def test_a_changed_file_and_a_result_that_is_gone_are_restored_again(archive, restoring):
    restoring.run(archive)
    save(archive / "a.tif", seed=1)
    (restoring.recipe.output / NAMES[1]).unlink()
    (restoring.recipe.output / NAMES[-1]).unlink()
    before = results(restoring.recipe.output)
    run = restoring.run(archive)
    assert (run.num_restored, run.num_before) == (3, 8)
    after = results(restoring.recipe.output)
    assert {name for name in NAMES if before.get(name) != after[name]} == {
        "a.ome.tif", NAMES[1], NAMES[-1]
    }  # fmt: skip


def test_a_dataset_to_which_images_were_added_is_restored_again(tmp_path, restoring):
    acquired = dataset(tmp_path / "in" / "run_1", growing.write_separate)
    assert restoring.run(tmp_path / "in").num_restored == 4
    assert restoring.run(tmp_path / "in").num_before == 4
    (tmp_path / "in" / "run_1" / "Pos0" / "display_settings.txt").touch()
    assert restoring.run(tmp_path / "in").num_before == 4
    image = next((tmp_path / "in").rglob("img*_z002.tif"))
    os.utime(image, (1, 1))
    assert restoring.run(tmp_path / "in").num_restored == len(acquired) // 3


def test_another_model_precision_or_type_restores_anew_and_back_again(
    tmp_path, archive, restoring, tiny_model
):
    import torch

    restoring.run(archive / "a.tif")
    first = results(restoring.recipe.output)
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_model(other, build_network(tiny_model.card.architecture), tiny_model.card)
    code = live_restore(
        "restore", archive / "a.tif", "--output", restoring.recipe.output, "--model", other,
        "--ledger", restoring.file.parent, "--device", "cpu",
    )  # fmt: skip
    assert code.returncode == 0, code.stderr
    assert results(restoring.recipe.output) != first
    for changes in ({"output_dtype": "float32"}, {"precision": "bfloat16"}):
        changed = Archive(restoring.recipe.output, tiny_model, **changes)
        assert changed.run(archive / "a.tif").num_restored == 1
        assert changed.run(archive / "a.tif").num_restored == 0
    assert restoring.run(archive / "a.tif").num_restored == 1
    assert results(restoring.recipe.output) == first


def test_failed_volumes_are_told_of_and_tried_again(tmp_path, restoring):
    path = tmp_path / "in" / "bad.tif"
    save(path, times=2)
    data = tifffile.imread(path).reshape(2, 3, 24, 26).astype("f4")
    data[1] = np.nan
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "TZYX"})
    for num_restored in (1, 0):
        run = restoring.run(tmp_path / "in")
        assert run.num_restored == num_restored
        (problem,) = run.problems
        assert "bad position 0 time 1" in problem
    assert [path.name for path in restoring.recipe.output.rglob("*.tif")] == ["bad_t0000.ome.tif"]


def test_an_error_that_nobody_foresaw_fails_its_volume_only(
    archive, restoring, monkeypatch, caplog
):
    restore = RcanRestorer.restore

    def fails_once(self, volume):
        if volume.key.time == 1 and volume.key.channel == "GFP":
            raise KeyError("x")
        return restore(self, volume)

    monkeypatch.setattr(RcanRestorer, "restore", fails_once)
    run = restoring.run(archive)
    assert run.num_restored == 10
    assert "KeyError" in run.problems[0]


def test_a_full_disk_ends_the_run_and_says_so(archive, restoring, monkeypatch):
    from live_restore.errors import SinkError

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("live_restore.sinks.writer.write_ome_tiff", full)
    with pytest.raises(SinkError, match="No space left"):
        restoring.run(archive)
    assert len(restoring.reports) == 2  # a.tif was looked into, and failed


@pytest.mark.parametrize("layout", WRITERS)
def test_a_dataset_is_restored_once_whichever_of_its_files_is_named(layout, tmp_path, restoring):
    folder = tmp_path / "in" / "run_1"
    acquired = dataset(folder, WRITERS[layout], positions=2)
    files = sorted(path for path in folder.rglob("*.tif"))
    assert restoring.names(tmp_path / "in") == ["run_1"]
    assert restoring.names(folder) == ["run_1"]
    assert restoring.names(*files) == ["run_1"]
    run = restoring.run(tmp_path / "in")
    assert (run.num_restored, run.problems) == (len(acquired) // 3, [])
    for path in restoring.recipe.output.rglob("*.tif"):
        assert re.fullmatch(r"run_1_Pos\d_t\d{4}_(DAPI|FITC)\.ome\.tif", path.name)
        with tifffile.TiffFile(path) as tiff:
            assert 'PhysicalSizeZ="0.4"' in tiff.ome_metadata
            assert 'PhysicalSizeX="0.13"' in tiff.ome_metadata


def test_incomplete_stacks_of_a_dataset_are_told_of(tmp_path, restoring):
    dataset(tmp_path / "in" / "run_1", growing.write_separate)
    next((tmp_path / "in").rglob("img*channel001*time000000001_z001.tif")).unlink()
    run = restoring.run(tmp_path / "in")
    assert run.num_restored == 3
    assert run.problems == ["run_1 position Pos0 time 1 FITC: 1 of 3 planes are missing: 1"]


def test_stacks_beside_a_dataset_and_one_inside_another_are_found(tmp_path, restoring):
    dataset(tmp_path / "in")
    dataset(tmp_path / "in" / "inner", growing.write_ndtiff)
    save(tmp_path / "in" / "cell.tif")
    assert restoring.names(tmp_path / "in") == ["in", "cell", "inner"]


def test_planes_that_lie_in_files_of_their_own_are_told_by_a_pattern(tmp_path, restoring):
    rng = np.random.default_rng(0)
    for folder in ("cell1", "cell2"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for channel in ("GFP", "DAPI"):
            for z in range(3):
                plane = rng.integers(0, 1000, (20, 22)).astype("u2")
                path = tmp_path / "in" / folder / f"{channel}_z{z}.tif"
                tifffile.imwrite(path, plane, compression="zlib" if z else None)
    save(tmp_path / "in" / "cell1" / "whole.tif")
    run = restoring.run(tmp_path / "in", pattern="{channel}_z{z}.tif")
    assert run.problems == []
    assert sorted(results(restoring.recipe.output)) == [
        "cell1/cell1_t0000_DAPI.ome.tif", "cell1/cell1_t0000_GFP.ome.tif",
        "cell1/whole.ome.tif",
        "cell2/cell2_t0000_DAPI.ome.tif", "cell2/cell2_t0000_GFP.ome.tif",
    ]  # fmt: skip
    assert restoring.run(tmp_path / "in", pattern="{channel}_z{z}.tif").num_before == 5


def test_a_folder_that_is_one_file_of_stacks_is_not_searched(tmp_path, restoring):
    save(tmp_path / "in" / "cell.ome.zarr" / "0" / "chunk.tif")
    name = acquisition_name(Path("cell.ome.zarr"))
    assert restoring.names(tmp_path / "in") == [name]
    assert restoring.names(tmp_path / "in" / "cell.ome.zarr") == [name]


def test_names_tell_apart_what_lies_in_several_folders(tmp_path, restoring):
    for name in ("day1/cell.tif", "day1/cell.ome.tif", "day2/cell.tif", "day2/.hidden.tif"):
        save(tmp_path / name)
    (tmp_path / "day2" / "notes.txt").touch()
    day1, day2 = tmp_path / "day1", tmp_path / "day2"
    assert restoring.names(day2) == ["cell"]
    assert restoring.names(day1) == ["cell.ome.tif", "cell.tif"]
    assert restoring.names(day1 / "cell.tif", day2) == ["day1/cell", "day2/cell"]
    assert restoring.names(day2, day2 / "cell.tif", tmp_path) == [
        "day2/cell", "day1/cell.ome.tif", "day1/cell.tif",
    ]  # fmt: skip


def test_a_result_takes_the_place_of_no_other_ones(tmp_path, restoring):
    save(tmp_path / "day1" / "cell.tif")
    save(tmp_path / "day2" / "cell.tif", seed=1)
    restoring.run(tmp_path / "day1")
    before = results(restoring.recipe.output)
    run = restoring.run(tmp_path / "day2")
    assert "which is a result of" in run.problems[0]
    assert results(restoring.recipe.output) == before
    assert restoring.run(tmp_path / "day2", replaces=True).problems == []
    assert results(restoring.recipe.output) != before


def test_a_folder_without_a_stack_is_nothing_to_restore(tmp_path, tiny_model):
    (tmp_path / "in").mkdir()
    done = live_restore(
        "restore", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_model.path
    )
    assert done.returncode == 1
    assert "0 volumes restored" in done.stderr


# --- processes that are killed, and clusters ---


def command(archive, output, model, *options):
    return [
        sys.executable, "-m", "live_restore", "restore", str(archive), "--output", str(output),
        "--model", str(model.path), "--device", "cpu", *options,
    ]  # fmt: skip


def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path, tiny_model):
    save(tmp_path / "in" / "series.tif", times=40)
    expected = Archive(tmp_path / "expected", tiny_model)
    expected.run(tmp_path / "in")
    out = tmp_path / "out"
    counts = []
    for enough in (1, 8):
        process = subprocess.Popen(
            command(tmp_path / "in", out, tiny_model), stderr=subprocess.DEVNULL
        )
        wait_for(lambda: len(list(out.rglob("*.ome.tif"))) >= enough, "some volumes")  # noqa: B023
        process.kill()
        process.wait()
        counts.append(len(list(out.rglob("*.ome.tif"))))
        for path in out.rglob("*.ome.tif"):
            assert tifffile.imread(path).shape == (3, 24, 26)
    done = live_restore(*command(tmp_path / "in", out, tiny_model)[3:])
    assert done.returncode == 0, done.stderr
    num_restored, num_before = (
        int(re.search(pattern, done.stderr)[1])
        for pattern in (r"(\d+) volumes restored", r"(\d+) of 40 volumes were restored before")
    )
    assert num_restored + num_before == 40
    assert counts[-1] - num_before in (0, 1)  # written, and killed before it was noted
    assert results(out) == results(tmp_path / "expected")


def test_ctrl_c_tells_how_to_go_on(tmp_path, tiny_model):
    save(tmp_path / "in" / "series.tif", times=200)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path / "in", out, tiny_model), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(out.rglob("*.ome.tif")), "a volume")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "goes on from there" in told
    assert not list(out.rglob("*.part"))


@contextmanager
def cluster(num_workers=2, *code):
    """Its address and its workers' process ids."""
    pytest.importorskip("distributed")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dask_cluster", str(num_workers), *code],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address, *pids = process.stdout.readline().split()
        yield address, [int(pid) for pid in pids]
    finally:
        process.communicate(timeout=60)


def test_a_cluster_of_two_workers_gives_files_identical_to_one_process(
    archive, restoring, tiny_model, tmp_path
):
    restoring.run(archive)
    out = tmp_path / "clusters"
    with cluster(2) as (address, _):
        done = live_restore(*command(archive, out, tiny_model, "--scheduler", address)[3:])
        assert done.returncode == 0, done.stderr
        assert "11 volumes restored" in done.stderr
        assert results(out) == results(restoring.recipe.output)
        # What one began the other goes on with.
        (out / NAMES[3]).unlink()
        done = live_restore(*command(archive, out, tiny_model, "--scheduler", address)[3:])
        assert "1 volumes restored" in done.stderr
        assert "10 of 11 volumes were restored before" in done.stderr


def test_a_worker_that_is_killed_loses_nothing(tmp_path, tiny_model):
    save(tmp_path / "in" / "series.tif", times=60)
    out = tmp_path / "out"
    with cluster(2) as (address, pids):
        process = subprocess.Popen(
            command(tmp_path / "in", out, tiny_model, "--scheduler", address),
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: list(out.rglob("*.ome.tif")), "a volume")
        os.kill(pids[0], signal.SIGKILL)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    assert "60 volumes restored" in told
    assert len(list(out.rglob("*.ome.tif"))) == 60


def test_a_worker_without_this_program_is_named(archive, tmp_path, tiny_model):
    out = tmp_path / "out"
    with cluster(1, "import sys\nsys.modules['live_restore'] = None") as (address, _):
        done = live_restore(*command(archive, out, tiny_model, "--scheduler", address)[3:])
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert re.search(r"live-restore: worker tcp://127.0.0.1:\d+: can't run this", done.stderr)
    assert f"Install live_restore {__version__}" in done.stderr
    assert not results(out)


def test_a_worker_tells_why_it_cannot_restore(restoring, tmp_path):
    recipe, mark = restoring.recipe, "mark"
    recipe.output.mkdir()
    assert "Install the same" in problem_of_worker(recipe, "0.0.1", mark)
    assert "on a disk that all machines share" in problem_of_worker(recipe, __version__, mark)
    (recipe.output / mark).touch()
    lost = replace(recipe, model=str(tmp_path / "lost.safetensors"))
    assert "no such file" in problem_of_worker(lost, __version__, mark)
    other = replace(recipe, model_sha256="0" * 64)
    assert "must have the same file" in problem_of_worker(other, __version__, mark)
    assert problem_of_worker(recipe, __version__, mark) is None


@pytest.mark.parametrize(
    ("visible", "num_workers", "seen"),
    [
        pytest.param(None, None, ["0", "1"], id="one per GPU"),
        pytest.param("3, 5", None, ["3", "5"], id="of those that may be used"),
        pytest.param(None, 3, ["0", "1", "0"], id="more workers than GPUs"),
    ],
)
def test_each_local_worker_sees_one_gpu(visible, num_workers, seen, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = environments("auto", num_workers)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in told] == seen
    threads = environments("cpu", 2)
    assert {one["OMP_NUM_THREADS"] for one in threads} == {
        str(max(1, torch.get_num_threads() // 2))
    }


def test_a_cluster_that_goes_ends_the_run_and_says_how_to_go_on(tmp_path, tiny_model):
    save(tmp_path / "in" / "series.tif", times=300)
    out = tmp_path / "out"
    with cluster(1) as (address, _):
        process = subprocess.Popen(
            command(tmp_path / "in", out, tiny_model, "--scheduler", address),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: list(out.rglob("*.ome.tif")), "a volume")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "is gone" in told
    assert "goes on from there" in told


def test_a_scheduler_that_goes_while_a_volume_is_waited_for_is_told_of_too():
    class Cancelled:
        """As dask.distributed has it: no exception to be asked for, and one that is raised."""

        status = "pending"

        def exception(self):
            self.status = "cancelled"

        def result(self):
            raise CancelledError("scheduler-connection-lost")

    with pytest.raises(RestoreError, match=r"is gone.*goes on from there"):
        _outcome(SimpleNamespace(scheduler=None), Cancelled(), None)


def test_a_local_cluster_is_started_and_ended(archive, tiny_model, tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    done = live_restore(
        *command(archive, out, tiny_model, "--scheduler", "local", "--workers", "2")[3:]
    )
    assert done.returncode == 0, done.stderr
    assert sorted(results(out)) == sorted(NAMES)


def run_with(setup, *arguments):
    """A command in a process of its own, in which something is prepared."""
    code = (
        f"import sys; {setup}; from live_restore.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


def test_a_scheduler_that_does_not_answer_is_an_error_that_says_what_to_do(
    archive, tmp_path, tiny_model
):
    pytest.importorskip("distributed")
    done = run_with(
        "import live_restore.archive.cluster as cluster; cluster._CONNECT_S = 0.5",
        *command(archive, tmp_path / "out", tiny_model, "--scheduler", "tcp://127.0.0.1:9")[3:],
    )
    assert done.returncode == 3
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_dask_the_error_says_what_to_install(archive, tmp_path, tiny_model):
    done = run_with(
        "sys.modules['distributed'] = None",
        *command(archive, tmp_path / "out", tiny_model, "--scheduler", "local")[3:],
    )
    assert done.returncode == 3
    assert 'pip install "live-restore[cluster]"' in done.stderr


def test_workers_are_those_of_a_local_cluster(archive, tmp_path, tiny_model):
    done = live_restore(*command(archive, tmp_path / "out", tiny_model, "--workers", "2")[3:])
    assert done.returncode == 2
    assert "--scheduler local" in done.stderr
