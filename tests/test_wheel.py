"""What is in the wheel that people install."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_all_that_is_not_python_is_there(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "live_restore"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {f"live_restore/profiles/{one.name}" for one in (ROOT / "profiles").glob("*.toml")}
    assert {name for name in names if ".dist-info/" not in name} == expected
    for needed in ("viewer/page/main.js", "models/default.safetensors", "models/default.envelope"):
        assert f"live_restore/{needed}" in names


def test_it_is_small_and_says_what_it_needs(wheel):
    assert wheel.stat().st_size < 2 * 2**20
    archive = zipfile.ZipFile(wheel)
    metadata = next(one for one in archive.namelist() if one.endswith("METADATA"))
    text = archive.read(metadata).decode()
    assert "Requires-Python: >=3.11" in text
    assert "Requires-Dist: torch<2.14,>=2.6" in text
    assert "live_restore" in text
    entries = next(one for one in archive.namelist() if one.endswith("entry_points.txt"))
    told = archive.read(entries).decode()
    assert "live-restore = live_restore.cli.main:main" in told
    assert "napari.manifest" in told
