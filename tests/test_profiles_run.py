"""The shipped profiles as a user starts from them: printed, filled in, run."""

import signal

import numpy as np
import pytest
import tifffile

from live_restore.sinks.writer import write_ome_tiff
from tests.conftest import daemon, free_endpoints, live_restore, wait_for

VOXEL_UM = (0.3, 0.1, 0.1)


def printed(name, tmp_path, *changes):
    """A shipped profile in a file of the user's, on ports that are free."""
    done = live_restore("profiles", name)
    assert done.returncode == 0
    text = done.stdout
    data, control = free_endpoints()
    for before, after in (
        ("tcp://127.0.0.1:5556", data),
        ("tcp://127.0.0.1:5557", control),
        *changes,
    ):
        assert before in text
        text = text.replace(before, after)
    file = tmp_path / f"{name}.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_computer_without_a_gpu_restores_what_is_saved(tmp_path):
    (tmp_path / "today").mkdir()
    profile = printed("cpu-only", tmp_path)
    data = np.random.default_rng(0).poisson(110, (1, 1, 6, 48, 48)).astype("u2")
    with daemon(profile) as process:
        file = tmp_path / "today" / "cell.ome.tif"
        write_ome_tiff(file, data, data.shape, data.dtype, VOXEL_UM, ("GFP",), {})
        wait_for(lambda: list(tmp_path.glob("today-restored/**/*.tif")), "the result")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    (restored,) = tmp_path.glob("today-restored/**/*.tif")
    with tifffile.TiffFile(restored) as tiff:
        assert tiff.asarray().shape == (6, 48, 48)
        assert 'K="device">cpu<' in tiff.ome_metadata


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("multi-gpu", [('"micromanager"', '"simulated"'), ("port = 4827", "")], "GPUs found"),
        ("own-acquisition", [], "Micro-Manager"),
    ],
)
def test_what_is_missing_for_it_is_told_and_not_tried_again(tmp_path, name, changes, said):
    profile = printed(name, tmp_path, *changes)
    checked = live_restore("check", profile)
    assert checked.returncode == 2
    assert said in checked.stdout
    run = live_restore("run", profile)
    assert run.returncode == 3
    assert said in run.stderr
    assert "Traceback" not in run.stderr
