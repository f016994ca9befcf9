import json

import pytest

from live_restore.cli.main import main
from live_restore.restore import measuring
from live_restore.restore.measuring import flop_per_voxel
from live_restore.restore.model import Architecture


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(measuring, "_MATMUL", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(measuring, "_COPY_BYTES", 2**16)


def bench(tiny_model, *options):
    return main(["bench", "--model", str(tiny_model.path), "--repeats", "1", *options])


def test_a_table_says_how_often_a_microscope_may_acquire(tiny_model, capsys):
    assert bench(tiny_model, "--shape", "20,12,12", "--precision", "float32") == 0
    told = capsys.readouterr().out
    for row in ("one volume", "network", "after the last plane", "plain PyTorch", "GB/s"):
        assert row in told
    assert "float32 differs from float32 by at most" in told
    assert "Your microscope may acquire a stack of 20×12×12 every" in told


def test_the_same_as_json(tiny_model, capsys):
    assert bench(tiny_model, "--shape", "20,12,12", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    speed = told["speed"]
    assert told["shape_zyx"] == told["tile_zyx"] == [20, 12, 12]
    assert speed["num_voxels"] == 20 * 12 * 12
    assert 0 < speed["network_s"] <= speed["whole_s"]
    assert speed["early_s"] > 0
    assert speed["eager_s"] > 0
    assert told["limits"]["flop_per_s"] > 0


def test_a_volume_of_few_planes_is_never_begun_early(tiny_model, capsys):
    assert bench(tiny_model, "--shape", "3,12,12", "--json") == 0
    assert json.loads(capsys.readouterr().out)["speed"]["early_s"] is None


@pytest.mark.parametrize("shape", ["64,512", "0,5,5", "a,b,c"])
def test_a_wrong_shape_is_a_usage_error(shape, tiny_model, capsys):
    with pytest.raises(SystemExit) as ended:
        bench(tiny_model, "--shape", shape)
    assert ended.value.code == 2
    assert "expected planes, rows, columns" in capsys.readouterr().err


def test_repeats_are_one_or_more(capsys):
    assert main(["bench", "--repeats", "0"]) == 2


def test_the_published_network_takes_two_million_operations_per_voxel():
    assert flop_per_voxel(Architecture()) == pytest.approx(1.994e6, rel=1e-3)
