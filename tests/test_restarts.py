"""A daemon that is stopped and started again: nothing lost, nothing restored twice."""

import json

import numpy as np
import tifffile

from tests import killing
from tests.conftest import daemon, live_restore, wait_for


def test_a_daemon_that_is_killed_again_and_again_loses_nothing(tmp_path, tiny_model):
    assert killing.run(tmp_path, tiny_model.path, rounds=4, volumes=12) == []


def profile_in(folder, model):
    profile = folder / "p.toml"
    profile.write_text(
        "[source]\nkind = 'folder'\npath = 'today'\nsettle_s = 0.1\nrescan_s = 0.3\n"
        f"[model]\npath = '{model.path}'\n[write]\nfolder = 'restored'\n"
        f"[publish]\nendpoint = 'ipc://{folder}/data'\ncontrol = 'ipc://{folder}/control'\n",
        encoding="utf-8",
    )
    (folder / "today").mkdir()
    return profile


def save(path, shape=(3, 24, 24), seed=0):
    data = np.random.default_rng(seed).integers(0, 1000, shape).astype("u2")
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"})


def status(profile):
    return json.loads(live_restore("status", profile, "--json").stdout)


def test_what_was_restored_is_not_restored_again_and_a_changed_file_is(tmp_path, tiny_model):
    profile = profile_in(tmp_path, tiny_model)
    save(tmp_path / "today" / "a.tif")
    save(tmp_path / "today" / "b.tif")
    restored = tmp_path / "restored"
    with daemon(profile) as process:
        wait_for(lambda: len(list(restored.glob("*.tif"))) == 2, "both")
        wait_for(lambda: status(profile)["written"] == 2, "the ledger")
        process.terminate()
        process.wait(60)
    before = {path.name: path.stat().st_mtime_ns for path in restored.glob("*.tif")}
    save(tmp_path / "today" / "b.tif", seed=1)
    save(tmp_path / "today" / "c.tif")
    (restored / "a.ome.tif").unlink()  # its result is gone: so it is wanted again
    with daemon(profile):
        wait_for(lambda: len(list(restored.glob("*.tif"))) == 3, "all three")
        wait_for(lambda: status(profile)["written"] == 3, "the ledger")
        after = {path.name: path.stat().st_mtime_ns for path in restored.glob("*.tif")}
        assert after["b.ome.tif"] != before["b.ome.tif"]
        assert status(profile)["source"].startswith("watching")
    again = after
    with daemon(profile) as process:
        save(tmp_path / "today" / "d.tif")
        wait_for(lambda: status(profile)["written"] == 4, "the new one")
    after = {path.name: path.stat().st_mtime_ns for path in restored.glob("*.tif")}
    assert {name: after[name] for name in again} == again


def test_what_a_stopped_daemon_had_waiting_waits_for_the_next_start(tmp_path, tiny_model):
    profile = profile_in(tmp_path, tiny_model)
    for number in range(40):
        save(tmp_path / "today" / f"{number:02}.tif", (8, 64, 64))
    with daemon(profile) as process:
        wait_for(lambda: list((tmp_path / "restored").glob("*.tif")), "the first one")
        process.terminate()
        process.terminate()
        _, told = process.communicate(timeout=60)
    after = status(profile)
    assert (after["skipped"], after["failed"]) == (0, 0), told
    assert after["seen"] == after["written"] + after["restored"] + after["waiting"]
    assert told.count("WARNING") <= 1 + after["restored"]  # each that wasn't written any more
    with daemon(profile):
        wait_for(lambda: status(profile)["written"] == 40, "the others")


def test_failed_volumes_are_told_of_and_tried_again_when_asked(tmp_path, tiny_model):
    profile = profile_in(tmp_path, tiny_model)
    bad = np.full((3, 24, 24), np.nan, "f4")
    tifffile.imwrite(tmp_path / "today" / "bad.tif", bad, ome=True, metadata={"axes": "ZYX"})
    with daemon(profile) as process:
        wait_for(lambda: status(profile)["failed"] == 1, "the failure")
        assert [one["key"]["acquisition"] for one in status(profile)["problems"]] == ["bad"]
        told = live_restore("status", profile).stdout
        assert "failed: bad" in told
        assert told.endswith(f"ledger: {status(profile)['ledger']}\n")
        assert "1 volumes" in live_restore("retry", profile).stdout
        wait_for(lambda: status(profile)["failed"] == 1, "another try")
        process.terminate()
        told = process.stderr.read()
    assert told.count("bad position 0 time 0 C0: skipped") == 2, told


def test_the_status_of_a_profile_that_never_ran_is_nothing(tmp_path, tiny_model):
    told = status(profile_in(tmp_path, tiny_model))
    assert (told["seen"], told["source"], told["problems"]) == (0, None, [])


def test_only_a_watched_folder_can_be_retried():
    done = live_restore("retry", "demo")
    assert done.returncode == 2
    assert "watched folder" in done.stderr
