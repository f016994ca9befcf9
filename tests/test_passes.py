"""Memory that runs out: at start, with a volume, with another one meanwhile."""

import math

import numpy as np
import pytest
import torch

from live_restore.cli.main import main
from live_restore.errors import RestoreError
from live_restore.restore import restorer as restorers
from live_restore.restore.manner import Manner
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.restore.sweep import Sweep
from tests.conftest import make_volume
from tests.test_engine import LIVE, growing, relative, restore, uneven


def test_running_out_of_memory_makes_tiles_smaller_and_says_so(monkeypatch, caplog):
    advance, limit = Sweep.advance, 200 * 200

    def scarce(self, num_given):
        if self.shape_zyx[1] * self.shape_zyx[2] > limit:
            raise torch.OutOfMemoryError("scarce")
        return advance(self, num_given)

    monkeypatch.setattr(Sweep, "advance", scarce)
    data = uneven()
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32") as restorer:
        first, second = (restorer.restore(make_volume(data)) for _ in range(2))
    assert "memory ran out: tiles are" in first.model.remark
    assert first.model.tile_zyx == second.model.tile_zyx < (6, 240, 250)
    assert second.model.remark == ""
    assert relative(first, second) < 1e-6
    monkeypatch.undo()
    assert relative(first, restore(Manner(), data)) < 1e-3


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_may_run_out_in_other_words(error, tiny_model, monkeypatch):
    put, limit = Sweep.put, 150 * 150

    def scarce(self, z, planes):
        if self.shape_zyx[1] * self.shape_zyx[2] > limit:
            raise error
        put(self, z, planes)

    monkeypatch.setattr(Sweep, "put", scarce)
    made = restore(Manner(), uneven((6, 180, 190)), tiny_model)
    assert "memory ran out: tiles are" in made.model.remark
    assert made.model.tile_zyx < (6, 180, 190)


def test_other_errors_leave_tiles_as_they_are(tiny_model, monkeypatch):
    def broken(self, z, planes):
        raise RuntimeError("shape mismatch")

    with RcanRestorer(tiny_model, "cpu", "float32") as restorer:
        monkeypatch.setattr(Sweep, "put", broken)
        with pytest.raises(RuntimeError, match="shape mismatch"):
            restorer.restore(make_volume(uneven((6, 180, 190))))
        assert len(restorer.plan((6, 180, 190))) == 1


def test_memory_that_is_never_enough_is_an_error(monkeypatch):
    def scarce(self, num_given):
        raise MemoryError("scarce")

    with RcanRestorer(load_model("default"), "cpu", "float32") as restorer:
        monkeypatch.setattr(Sweep, "advance", scarce)
        with pytest.raises(RestoreError, match="set a smaller tile_zyx"):
            restorer.restore(make_volume(uneven()))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        MemoryError(),
    ],
    ids=str,
)
def test_memory_that_is_not_even_enough_for_the_model_is_an_error(error, tiny_model, monkeypatch):
    def scarce(engine, model):
        raise error

    monkeypatch.setattr(restorers, "certify", scarce)
    restorer = RcanRestorer(tiny_model, "cpu")
    with pytest.raises(
        RestoreError, match=r"tiny should be loaded on cpu.*: close other"
    ) as caught:
        restorer.__enter__()
    assert "\n" not in str(caught.value)
    assert not restorer._engines


def test_without_memory_for_its_model_the_daemon_says_so_and_does_not_start(
    tmp_path, tiny_model, monkeypatch, capsys
):
    def scarce(engine, model):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(restorers, "certify", scarce)
    profile = tmp_path / "p.toml"
    profile.write_text(
        f"[source]\nkind = 'simulated'\n[model]\npath = '{tiny_model.path}'\ndevice = 'cpu'\n"
        f"[publish]\nendpoint = 'ipc://{tmp_path}/d'\ncontrol = 'ipc://{tmp_path}/c'\n",
        encoding="utf-8",
    )
    assert main(["run", str(profile)]) == 3  # could not start
    said = capsys.readouterr().err
    assert "live-restore: model tiny should be loaded on cpu" in said
    assert "Traceback" not in said


def test_memory_that_runs_out_meanwhile_leaves_nothing_of_what_was_begun(tiny_model, monkeypatch):
    channels = {"channels": ("DAPI", "GFP")}
    data = uneven((8, 180, 190))
    advance, limit = Sweep.advance, math.inf

    def scarce(self, num_given):
        if num_given == 8 and self.shape_zyx[1] * self.shape_zyx[2] > limit:
            raise torch.OutOfMemoryError("scarce")
        return advance(self, num_given)

    monkeypatch.setattr(Sweep, "advance", scarce)
    made = []
    for begins in (True, False):
        limit = math.inf
        with RcanRestorer(tiny_model, "cpu", "float32", "float32", LIVE) as restorer:
            for channel in channels["channels"]:
                restorer.restore(make_volume(data, 0, channel, **channels))
            second = make_volume(data, 1, "GFP", **channels)
            if begins:
                assert restorer.advance([growing(second, 4)])
            limit = 150 * 150
            other = restorer.restore(make_volume(data, 1, "DAPI", **channels))
            assert "memory ran out: tiles are" in other.model.remark
            assert not restorer._underway._begun  # it takes memory
            made.append(restorer.restore(second))
    early, late = made
    assert early.model == late.model
    assert early.model.tile_zyx < data.shape
    np.testing.assert_array_equal(early.data, late.data)
