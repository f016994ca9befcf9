"""Models that are known by name."""

import shutil
from pathlib import Path

import pytest

from live_restore.errors import ModelError
from live_restore.profile import load_profile
from live_restore.restore import open_restorer
from live_restore.restore.model import load_model
from live_restore.restore.model_folder import find_model, shipped_model, user_model_folder


@pytest.fixture
def installed(tiny_model, tmp_path, monkeypatch):
    """The tiny model in the user's folder, as "nuclei v1.2"."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("LIVE_RESTORE_MODELS", str(folder))
    return Path(shutil.copy(tiny_model.path, folder / "nuclei v1.2.safetensors"))


def test_the_users_folder_is_the_systems_or_the_environments(monkeypatch):
    monkeypatch.delenv("LIVE_RESTORE_MODELS", raising=False)
    assert "live-restore" in user_model_folder().parts
    assert user_model_folder().name == "models"
    monkeypatch.setenv("LIVE_RESTORE_MODELS", "~/shared")
    assert user_model_folder() == Path.home() / "shared"


def test_a_model_in_the_users_folder_is_loaded_by_its_name(installed, tiny_model):
    assert find_model("nuclei v1.2") == installed
    assert load_model("nuclei v1.2").sha256 == tiny_model.sha256
    assert find_model("default") == shipped_model()


def test_a_file_goes_before_a_name(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nuclei v1.2").write_bytes(b"mine")
    assert find_model("nuclei v1.2").read_bytes() == b"mine"


def test_an_unknown_name_is_refused_with_the_known_ones(installed):
    with pytest.raises(ModelError, match=r"no such file.*default, nuclei v1\.2"):
        load_model("nuclie")
    with pytest.raises(ModelError, match="no such file"):
        load_model("elsewhere/nuclei v1.2")


def test_a_profile_names_a_model_by_name_or_by_file(installed, tiny_model, tmp_path):
    profile = tmp_path / "a.toml"
    profile.write_text('[source]\nkind = "simulated"\n[model]\npath = "nuclei v1.2"\n')
    assert load_profile(profile).model.path == Path("nuclei v1.2")
    assert open_restorer(load_profile(profile).model).model.sha256 == tiny_model.sha256
    # A file of that name beside the profile goes first, and a path is always a file.
    beside = Path(shutil.copy(installed, tmp_path / "nuclei v1.2"))
    assert load_profile(profile).model.path == beside
    profile.write_text('[source]\nkind = "simulated"\n[model]\npath = "mine.safetensors"\n')
    assert load_profile(profile).model.path == tmp_path / "mine.safetensors"
