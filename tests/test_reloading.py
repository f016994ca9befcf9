"""A model in place of another: which profile counts from then on."""

import pytest

from live_restore import reloading
from live_restore.profile import parse_profile
from live_restore.reloading import ReloadingRestorer
from tests.conftest import make_volume
from tests.test_service import FakeRestorer

LOST = RuntimeError("CUDA error: unspecified launch failure")


@pytest.fixture
def changing(monkeypatch, tmp_path):
    """A restorer whose profile can be changed, and what was opened."""
    opened = []

    def profile(path, device):
        text = f"[source]\nkind = 'simulated'\n[model]\npath = '{path}'\ndevice = '{device}'\n"
        return parse_profile(text, tmp_path / "p.toml")

    class Changing:
        def __init__(self):
            self.opened = opened
            self.before = lambda volume: None

        def begin(self, path, device):
            self.now = profile(path, device)
            return ReloadingRestorer(self.now, lambda: self.now)

        def change(self, restorer, path, device):
            self.now = profile(path, device)
            restorer.reload()
            restorer._loading.join()

    made = Changing()

    def open_restorer(settings, *_):
        opened.append((settings.path.name, settings.device))
        return FakeRestorer(lambda volume: made.before(volume), len(settings.device.split(",")))

    monkeypatch.setattr(reloading, "open_restorer", open_restorer)
    return made


def test_a_device_that_is_lost_after_a_reload_gets_the_new_model(changing):
    with changing.begin("old.safetensors", "cuda") as restorer:
        changing.change(restorer, "new.safetensors", "cuda")

        def lose(volume):
            changing.before = lambda volume: None
            raise LOST

        changing.before = lose
        restorer.restore(make_volume())
    assert [path for path, _ in changing.opened] == [
        "old.safetensors",
        "new.safetensors",
        "new.safetensors",
    ]


def test_fewer_devices_than_at_the_start_are_refused(changing, caplog):
    """So many threads restore at once, and a restorer bears one each."""
    with changing.begin("old.safetensors", "cuda:0,cuda:1") as restorer:
        changing.change(restorer, "new.safetensors", "cuda:0")
        assert restorer.num_workers == 2
        assert restorer.reloads == {"loaded": 0, "failed": 1, "refused": 0}
    assert "1 at work where the daemon was started for 2: restart it" in caplog.text


@pytest.mark.parametrize(
    ("device", "may_hang"), [("cpu", False), ("cuda:0", True), ("cuda:0,cuda:1", True)]
)
def test_only_a_gpu_is_taken_for_hanging(changing, device, may_hang):
    with changing.begin("old.safetensors", device) as restorer:
        assert restorer.may_hang is may_hang
        changing.change(restorer, "old.safetensors", "cuda:0" if device == "cpu" else device)
        assert restorer.may_hang
