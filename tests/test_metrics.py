"""Metrics as Prometheus gets them, of a real daemon."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from live_restore.assessment import Assessment
from live_restore.errors import MetricsError
from live_restore.metrics import Metrics
from live_restore.profile import parse_profile
from live_restore.record import open_metrics
from live_restore.volume import Skipped, VolumeKey
from tests import hostile_frames as hostile
from tests.conftest import daemon, live_restore, make_restored, wait_for
from tests.ingesting import free_endpoint

SHAPE = (3, 16, 16)


def free_port():
    return int(free_endpoint().rpartition(":")[2])


def scrape(port):
    """All samples, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        assert reply.headers.get_content_type() in ("text/plain", "application/openmetrics-text")
        text = reply.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def number(samples, name, **labels):
    return samples["live_restore_" + name, tuple(sorted(labels.items()))]


def labels_of(samples, name):
    (labels,) = (dict(labels) for found, labels in samples if found == "live_restore_" + name)
    return labels


@pytest.fixture
def running(tmp_path, tiny_model, endpoints):
    ingest, port = free_endpoint(), free_port()
    profile = tmp_path / "p.toml"
    profile.write_text(
        f"[source]\nkind = 'ingest'\nendpoint = '{ingest}'\n[model]\npath = '{tiny_model.path}'\n"
        f"[publish]\nendpoint = '{endpoints[0]}'\ncontrol = '{endpoints[1]}'\n"
        f"[write]\nfolder = 'restored'\n[metrics]\nport = {port}\n",
        encoding="utf-8",
    )
    with daemon(profile) as process, zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 0
        push.connect(ingest)

        def is_ready():  # what belongs to a part of the service is there when that is
            try:
                return ("live_restore_viewers", ()) in scrape(port)
            except OSError:
                return False

        wait_for(is_ready, "the metrics")
        yield process, push, port, endpoints
        process.terminate()
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log


def send_volume(push, time, shape=SHAPE, planes=None):
    data = np.random.default_rng(time).integers(0, 1000, shape).astype("u2")
    for frames in hostile.good_volume(time, data)[:planes]:
        push.send_multipart(frames)


def test_a_daemon_s_metrics_are_what_it_was_sent(running):
    _, push, port, endpoints = running
    with zmq.Context() as context, context.socket(zmq.SUB) as viewer:
        viewer.subscribe("volume/restored/")
        viewer.connect(endpoints[0])
        wait_for(lambda: number(scrape(port), "viewers") == 1, "the viewer")
        for time in range(5):
            send_volume(push, time)
        send_volume(push, 5, planes=2)
        end = {"sender": "honest", "acquisition": "good 5", "number": 17}
        push.send_multipart([b"end/", json.dumps(end).encode()])
        for _ in range(7):
            push.send_multipart([b"plane/", b"{}", b"x"])

        def is_all_there():
            got = scrape(port)
            return (
                number(got, "volumes_total", outcome="written") == 5
                and number(got, "volumes_total", outcome="skipped") == 1
                and number(got, "refused_messages_total", port="ingest") == 7
                and got
            )

        samples = wait_for(is_all_there, "all of it")
    outcomes = {
        dict(labels)["outcome"]: value
        for (name, labels), value in samples.items()
        if name == "live_restore_volumes_total"
    }
    assert outcomes == {
        "seen": 6,
        "restored": 5,
        "skipped": 1,
        "failed": 0,
        "published": 5,
        "written": 5,
        "not_published": 0,
        "not_written": 0,
    }
    assert number(samples, "skipped_volumes_total", cause="incomplete") == 1
    assert number(samples, "skipped_volumes_total", cause="too_slow") == 0
    for stage in ("waiting", "restoring", "publishing", "writing"):
        assert number(samples, "stage_seconds_count", stage=stage) == 5
        assert number(samples, "stage_seconds_bucket", stage=stage, le="+Inf") == 5
    ages = number(samples, "publication_age_seconds_count", order="live")
    ages += samples.get(("live_restore_publication_age_seconds_count", (("order", "backfill"),)), 0)
    assert ages == 5
    for queue in ("restore", "publish", "write"):
        assert number(samples, "queue_items", queue=queue) == 0
        assert number(samples, "queue_bytes", queue=queue) == 0
    for name in ("spool_volumes", "spool_bytes", "unfinished_volumes", "unfinished_bytes"):
        assert number(samples, name) == 0
    assert number(samples, "model_reloads_total", outcome="loaded") == 0
    assert number(samples, "refused_messages_total", port="control") == 0
    assert labels_of(samples, "model_info")["name"] == "tiny"
    assert labels_of(samples, "model_info")["device"] == "cpu"
    with zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.linger = 0
        asking.connect(endpoints[1])
        asking.send(b'{"get": "status"}')
        assert asking.poll(30_000)
        status = json.loads(asking.recv_multipart()[1])
    assert labels_of(samples, "info")["session"] == status["session"]
    if sys.platform == "linux":
        assert samples["process_resident_memory_bytes", ()] > 2**20


def test_all_that_is_served_is_documented(running):
    _, push, port, _ = running
    send_volume(push, 0)
    wait_for(lambda: number(scrape(port), "volumes_total", outcome="written"), "the volume")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        served = set(re.findall(r"^# TYPE (live_restore_\w+) ", reply.read().decode(), re.M))
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(live_restore_\w+)` \|([^|]*)\|", text, re.M))
    assert {name for name in served if not name.endswith("_created")} == set(documented)
    for (name, labels), _ in scrape(port).items():
        told = documented.get(re.sub("_(bucket|sum|count)$", "", name))
        if told is not None:
            assert {label for label, _ in labels} - {"le"} == set(re.findall(r"`(\w+)`", told))


def test_what_is_unfinished_and_reloads_and_bad_requests_are_counted(running):
    process, push, port, endpoints = running
    send_volume(push, 0, planes=2)
    wait_for(lambda: number(scrape(port), "unfinished_volumes") == 1, "the unfinished volume")
    assert number(scrape(port), "unfinished_bytes") == 2 * np.prod(SHAPE)
    assert number(scrape(port), "running_acquisitions") == 1
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: number(scrape(port), "model_reloads_total", outcome="loaded") == 1, "reload")
    with zmq.Context() as context, context.socket(zmq.DEALER) as asking:
        asking.linger = 0
        asking.connect(endpoints[1])
        for _ in range(3):
            asking.send(b"nonsense")
        wait_for(
            lambda: number(scrape(port), "refused_messages_total", port="control") == 3, "refusals"
        )


def test_without_the_table_nothing_is_served(tmp_path, tiny_model):
    assert open_metrics(parse_profile("[source]\nkind = 'ingest'\n", tmp_path / "p.toml")) is None


def test_only_this_pc_is_served():
    port = free_port()
    with Metrics(port) as metrics:
        assert metrics._server.server_address == ("127.0.0.1", port)


def test_a_port_in_use_is_an_error_with_a_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MetricsError, match=rf"port {port}.*another port in \[metrics\]"):
            Metrics(port).__enter__()


def test_a_port_can_be_opened_again_at_once():
    port = free_port()
    for _ in range(3):
        with Metrics(port):
            assert number(scrape(port), "volumes_total", outcome="seen") == 0


def test_programs_that_ask_for_nothing_do_not_keep_others_from_it():
    port = free_port()
    with Metrics(port) as metrics:
        metrics.seen()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\nX: ")

        def is_served():
            try:
                return number(scrape(port), "volumes_total", outcome="seen") == 1
            except OSError:
                return False

        wait_for(is_served, "room, when they were waited for long enough")
        for one in silent:
            one.close()


def test_each_outcome_is_counted_once():
    port = free_port()
    key = VolumeKey("run", "0", 0, "c")
    with Metrics(port) as metrics:
        metrics.skipped(Skipped(key, "x", cause="mismatch"))
        metrics.skipped(Skipped(key, "x", is_final=True, cause="refused"))
        metrics.restored(replace(make_restored(), assessment=Assessment("amber")))
        metrics.sent("publish", make_restored(), 0.2)
        metrics.unsent("write")
        metrics.watch("gauge", "things", "Things.", lambda: {("a",): 1, ("b",): 2}, "which")
        got = scrape(port)
    for outcome in ("skipped", "failed", "restored", "published", "not_written"):
        assert number(got, "volumes_total", outcome=outcome) == 1
    assert number(got, "volumes_total", outcome="written") == 0
    assert number(got, "skipped_volumes_total", cause="mismatch") == 1
    assert number(got, "stage_seconds_sum", stage="restoring") == pytest.approx(0.1)
    assert number(got, "stage_seconds_sum", stage="publishing") == pytest.approx(0.2)
    assert number(got, "stage_seconds_bucket", stage="publishing", le="0.1") == 0
    assert number(got, "stage_seconds_bucket", stage="publishing", le="0.25") == 1
    assert number(got, "things", which="b") == 2
    assert number(got, "verdicts_total", verdict="amber") == 1
    assert number(got, "verdicts_total", verdict="green") == 0


def test_what_cannot_be_read_is_left_out_and_told_of_once(caplog):
    port = free_port()
    lost = True

    def memory():
        if lost:
            raise RuntimeError("CUDA error: unspecified launch failure\nand more")
        return {("0", "free"): 7}

    with Metrics(port) as metrics:
        metrics.watch("gauge", "gpu_memory_bytes", "Memory.", memory, "device", "kind")
        metrics.watch("gauge", "things", "Things.", lambda: 2)
        for _ in range(3):
            got = scrape(port)
            assert number(got, "things") == 2
            assert number(got, "volumes_total", outcome="seen") == 0
            assert not any(name == "live_restore_gpu_memory_bytes" for name, _ in got)
        lost = False
        assert number(scrape(port), "gpu_memory_bytes", device="0", kind="free") == 7
    told = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert told == [
        "metrics: live_restore_gpu_memory_bytes is left out while it can't be read "
        "(CUDA error: unspecified launch failure)"
    ]


def test_without_the_extra_it_is_said_what_to_install(tmp_path, tiny_model):
    profile = tmp_path / "p.toml"
    profile.write_text(
        f"[source]\nkind = 'simulated'\n[model]\npath = '{tiny_model.path}'\n[metrics]\n"
        f"[publish]\nendpoint = 'ipc://{tmp_path}/d'\ncontrol = 'ipc://{tmp_path}/c'\n",
        encoding="utf-8",
    )
    blocked = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from live_restore.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    for command, code in (("run", 3), ("check", 2)):
        done = subprocess.run(
            [sys.executable, "-c", blocked, command, str(profile)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"COLUMNS": "400"},
            check=False,
        )
        assert 'pip install "live-restore[metrics]"' in done.stdout + done.stderr
        assert done.returncode == code


def test_check_tries_the_port(tmp_path, tiny_model):
    profile = tmp_path / "p.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        profile.write_text(
            f"[source]\nkind = 'simulated'\n[model]\npath = '{tiny_model.path}'\n"
            f"[publish]\nendpoint = 'ipc://{tmp_path}/d'\ncontrol = 'ipc://{tmp_path}/c'\n"
            f"[metrics]\nport = {taken.getsockname()[1]}\n",
            encoding="utf-8",
        )
        assert "metrics.port" in live_restore("check", profile).stdout
    assert live_restore("check", profile).returncode == 0


@pytest.mark.gpu
def test_gpu_memory_is_told_of_the_gpu_in_use():
    import torch

    from live_restore.restore.gpu_memory import gpu_memory

    kept = torch.zeros(2**20, device="cuda")
    memory = gpu_memory()
    assert memory["0", "allocated"] >= kept.nbytes
    assert memory["0", "total"] >= memory["0", "free"] > 0
    assert memory["0", "reserved"] >= memory["0", "allocated"]


def test_on_the_processor_no_gpu_memory_is_told():
    from live_restore.restore.gpu_memory import gpu_memory

    assert gpu_memory() == {}
