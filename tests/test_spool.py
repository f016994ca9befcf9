import dataclasses
import os

import numpy as np
import pytest

from live_restore import spool as spool_module
from live_restore.errors import SpoolError
from live_restore.spool import Spool
from live_restore.volume import utc_now
from tests.conftest import make_volume


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path / "spool", 2**20) as spool:
        yield spool


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_volume_comes_back_from_disk_as_it_was(spool, dtype):
    data = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(dtype)
    volume = dataclasses.replace(
        make_volume(data, time=7, channel="µ /:\n", positions=("a", "b"), num_times=None),
        acquired_at=utc_now(),
        exposure_ms=2.5,
        missing=(1,),
    )
    kept = spool.keep(volume)
    back = kept.load()
    assert kept.key == volume.key
    assert kept.held_nbytes == 0
    assert back.data.dtype == volume.data.dtype
    assert not back.data.flags.writeable
    np.testing.assert_array_equal(back.data, volume.data)
    fields = (
        "key",
        "info",
        "acquired_at",
        "received_at",
        "received_s",
        "exposure_ms",
        "missing",
        "is_live",
    )
    for name in fields:
        assert getattr(back, name) == getattr(volume, name)


def test_no_more_than_the_limit_is_kept_and_discarding_makes_room(tmp_path):
    volume = make_volume(np.zeros((3, 10, 10), "u2"))
    with Spool(tmp_path, 2500) as spool:
        first = spool.keep(volume)
        assert first is not None
        assert spool.keep(volume) is not None
        assert spool.keep(volume) is None
        spool.discard(first)
        assert not first.path.exists()
        assert spool.keep(volume) is not None


def test_what_an_earlier_run_left_is_found_in_order_and_half_written_files_are_not(tmp_path):
    with Spool(tmp_path, 2**20) as spool:
        for time in range(3):
            spool.keep(make_volume(time=time))
    (tmp_path / "1.volume.part").write_bytes(b"half")
    with Spool(tmp_path, 2**20) as spool:
        found = list(spool.left_over())
        assert [spooled.key.time for spooled, _ in found] == [0, 1, 2]
        assert found[0][1] == found[0][0].load().info
        assert not found[0][0].load().is_live
        assert not (tmp_path / "1.volume.part").exists()
        for spooled, _ in found:
            spool.discard(spooled)
    assert not tmp_path.exists()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[1]\n", b"\xff\xfe", b"{" * 100_000])
def test_a_damaged_file_is_put_aside_and_told_of(tmp_path, content, caplog):
    (tmp_path / "00001.volume").write_bytes(content)
    with Spool(tmp_path, 2**20) as spool:
        spool.keep(make_volume())
        assert len(list(spool.left_over())) == 1
    assert "00001.volume: a volume that waited on disk is damaged" in caplog.text
    assert (tmp_path / "00001.damaged").exists()


@pytest.mark.parametrize("keep", [0, 10, 400, -1])
def test_a_file_that_was_cut_short_is_an_error_of_that_volume(spool, keep):
    kept = spool.keep(make_volume())
    os.truncate(kept.path, keep if keep >= 0 else kept.path.stat().st_size - 1)
    with pytest.raises(SpoolError, match="can't be read back"):
        kept.load()


def test_a_disk_that_refuses_is_told_of_once_and_nothing_half_written_is_left(
    spool, monkeypatch, caplog, tmp_path
):
    def refuse(*arguments, **names):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(spool_module.np.lib.format, "write_array", refuse)
        assert spool.keep(make_volume()) is None
        assert spool.keep(make_volume()) is None
    assert caplog.text.count("No space left on device") == 1
    assert list((tmp_path / "spool").iterdir()) == []
    assert spool.keep(make_volume()) is not None


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="spool_mb = 0"), Spool(tmp_path / "file" / "x", 1):
        pass
