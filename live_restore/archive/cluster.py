"""An archive's restoration on a Dask cluster: an existing one, or one of this machine's own.

Dask sends jobs and outcomes pickled, between the user's own machines; volumes don't travel: each worker
reads and writes the shared disk itself.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from live_restore import __version__
from live_restore.archive.jobs import Job, Outcome, Recipe
from live_restore.archive.run import Execute
from live_restore.archive.work import Workbench
from live_restore.errors import LiveRestoreError, RestoreError

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

__all__ = ["LOCAL", "on_cluster"]

logger = logging.getLogger(__name__)

LOCAL = "local"
"""The scheduler's name for a cluster of this machine's own."""

_PER_WORKER = 2  # jobs on their way, so that none waits for the next
_RETRIES = 2
_CONNECT_S = 10

# --- in a worker ---

_benches: dict[Recipe, Workbench] = {}  # one at most
_lock = threading.Lock()


def restore_on_worker(job: Job, recipe: Recipe) -> Outcome:
    """Called by Dask in a worker, which keeps its model for the next volume.

    Raises
    ------
    LiveRestoreError
        This worker can't restore any; Dask tries again, here or on another one.
    """
    from dataclasses import replace

    from distributed import get_worker

    where = f"worker {get_worker().address}"
    try:
        outcome = _bench(recipe).restore(job)
    except LiveRestoreError as error:
        raise type(error)(f"{where}: {error}") from error
    return (
        outcome
        if outcome.problem is None
        else replace(outcome, problem=f"{outcome.problem} ({where})")
    )


def problem_of_worker(recipe: Recipe, version: str, mark: str) -> str | None:
    """Called in each worker before the first volume: why it can't restore; None when it can."""
    if version != __version__:
        return f"has live_restore {__version__}, this program is {version}. Install the same everywhere"
    if not (recipe.output / mark).exists():
        return (
            f"doesn't see what this program writes into {recipe.output}. Raw data, model and results "
            "must lie on a disk that all machines share, under the same path"
        )
    try:
        _bench(recipe)
    except LiveRestoreError as error:
        return str(error)
    return None


def put_away() -> None:
    """Called in each worker after the last volume: its files are closed, its model stays."""
    for bench in _benches.values():
        bench.put_away()


def _bench(recipe: Recipe) -> Workbench:
    with _lock:
        if recipe not in _benches:
            for bench in _benches.values():
                bench.__exit__(None, None, None)
            _benches.clear()
            _benches[recipe] = Workbench(recipe).__enter__()
        return _benches[recipe]


# --- in the program that the user runs ---


@contextmanager
def on_cluster(scheduler: str, recipe: Recipe, num_workers: int | None = None) -> Iterator[Execute]:
    """Restores volumes on a cluster, as long as the context lasts.

    Parameters
    ----------
    scheduler : str
        Address of an existing one, as ``tcp://host:8786``, or ``"local"``.
    recipe : Recipe
        How. Its output folder is there.
    num_workers : int, optional
        Of a local cluster; without it one per GPU, or a single one where there is none.

    Raises
    ------
    RestoreError
        Dask isn't installed, nobody answers, or a worker can't restore: which and why.
    """
    try:
        from distributed import Client
        from distributed.versions import VersionMismatchWarning
    except ImportError as error:
        raise RestoreError(
            'a cluster needs Dask, which isn\'t installed: pip install "live-restore[cluster]"'
        ) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # of workers that come and go
    with ExitStack() as opened, warnings.catch_warnings():
        # Of packages that don't matter here; our own version is compared by each worker.
        warnings.simplefilter("ignore", VersionMismatchWarning)
        target: Any = scheduler
        if scheduler == LOCAL:
            target = opened.enter_context(_local_cluster(recipe, num_workers))
        try:
            client = Client(target, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise RestoreError(
                f"no Dask scheduler answers at {scheduler} ({error}). Start one with `dask scheduler`, "
                "and workers with `dask worker ADDRESS`, or give --scheduler local"
            ) from error
        opened.enter_context(client)
        _check_workers(client, recipe)
        try:
            yield lambda jobs: _execute(client, recipe, jobs)
        finally:
            try:
                client.run(put_away, on_error="ignore")
            except (OSError, RuntimeError, TimeoutError) as error:  # a cluster that is gone
                logger.debug("workers weren't told to put their files away: %s", error)


def _execute(client: Client, recipe: Recipe, jobs: Iterator[Job]) -> Iterator[Outcome]:
    """A few jobs per worker are on their way at a time, however large the archive is."""
    from distributed import as_completed

    running: dict[Future, Job] = {}
    done: Any = as_completed(loop=client.loop)

    def fill() -> None:
        most = _PER_WORKER * max(1, len(client.nthreads()))
        while len(running) < most and (job := next(jobs, None)) is not None:
            future = client.submit(restore_on_worker, job, recipe, pure=False, retries=_RETRIES)
            running[future] = job
            done.add(future)

    try:
        fill()
        for future in done:
            job = running.pop(future)
            yield _outcome(client, future, job)
            fill()
    finally:
        if running:
            client.cancel(list(running))


def _outcome(client: Client, future: Future, job: Job) -> Outcome:
    with suppress(
        CancelledError
    ):  # as it is when the scheduler goes, here or while it is waited for
        error = future.exception()  # waits anew where the worker died before it gave its outcome
        if error is None:
            outcome: Outcome = future.result()
            return outcome
        if future.status == "error":
            problem = f"{job.key}: can't be restored ({type(error).__name__}: {error})"
            return Outcome.of(job, problem)
    raise RestoreError(
        f"the Dask scheduler {client.scheduler.address if client.scheduler else ''} is gone. What was "
        "restored is noted: the same command goes on from there"
    )


def _check_workers(client: Client, recipe: Recipe) -> None:
    mark = recipe.output / f".live-restore-{secrets.token_hex(4)}.part"
    mark.touch()
    try:
        answers = client.run(problem_of_worker, recipe, __version__, mark.name, on_error="return")
    finally:
        mark.unlink(missing_ok=True)
    if not answers:
        logger.warning("the cluster has no workers yet: volumes wait for `dask worker`")
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            raise RestoreError(
                f"worker {address}: can't run this program ({answer}). Install live_restore "
                f"{__version__} where it runs, and start it again"
            )
        if answer is not None:
            raise RestoreError(f"worker {address}: {answer}")


@contextmanager
def _local_cluster(recipe: Recipe, num_workers: int | None) -> Iterator[SpecCluster]:
    from distributed import Nanny, Scheduler, SpecCluster

    common = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.ERROR,
    }
    workers = {
        number: {"cls": Nanny, "options": common | {"env": environment}}
        for number, environment in enumerate(environments(recipe.device, num_workers))
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    with _not_interrupted():
        cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.ERROR)
    with cluster:
        yield cluster


def environments(device: str, num_workers: int | None) -> list[dict[str, str]]:
    """Of each worker of this machine: which GPU it sees, or how many threads it computes with."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = [one.strip() for one in visible if one.strip()]
        names = names or [str(number) for number in range(torch.cuda.device_count())]
        return [
            {"CUDA_VISIBLE_DEVICES": names[n % len(names)]}
            for n in range(num_workers or len(names))
        ]
    count = num_workers or 1
    threads = str(max(1, torch.get_num_threads() // count))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(count)]


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Processes that are started meanwhile leave Ctrl-C to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Callable[..., Any] | int | None = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
