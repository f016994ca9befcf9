"""The service: opens what the profile names, connects it, and ends it in order.

The life of a service, read from top to bottom in `Service.run`::

    sinks open -> model warm -> source open -> ready
    source thread:  planes -> assembler -> inbox
    restore thread: inbox -> restorer -> one queue per sink
    sink threads:   queue -> sink
    source ends or stop(): inbox drains, then the sinks' queues, within shutdown_s
    second stop(): what still waits is dropped and counted
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from functools import partial

from live_restore.backfill import Backfill
from live_restore.delivery import Delivery
from live_restore.dose_control import DoseControl
from live_restore.early import Early
from live_restore.errors import DeviceLostError, LiveRestoreError, SpoolError
from live_restore.fates import Fates, Waiting
from live_restore.interfaces import Event, Sink, Source, StopSignal
from live_restore.light import LightReading
from live_restore.liveness import Liveness, Working
from live_restore.monitoring import monitor
from live_restore.notifier import Notifier
from live_restore.pipeline import QueueClosedError, Stage, VolumeQueue
from live_restore.profile import Profile
from live_restore.record import Record, claimed_ledger, dose_log_file, open_metrics, open_spool
from live_restore.reloading import ReloadingRestorer
from live_restore.sinks import open_sinks
from live_restore.sources import open_source
from live_restore.sources.assembler import Assembler, Settled, room_for_stacks
from live_restore.spool import Spool, Spooled
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    Plane,
    Restored,
    Skipped,
    SourceState,
    VolumeKey,
)

__all__ = ["Service"]

logger = logging.getLogger(__name__)

_MB = 2**20
_SIGNAL_CHECK_S = 1.0  # on Windows a signal's handler runs only when a wait ends
_STOP, _DRAIN, _RELOAD = "stop", "drain", "reload"
_TOLD = ("seen", "restored", "skipped", "left for the next start")


class Service:
    """One running profile.

    Parameters
    ----------
    profile : Profile
        What to run.
    notifier : Notifier, optional
        Told how the service is.
    read_profile : callable, optional
        Gives the profile as it is now, for `reload`; `profile` itself without it.

    Attributes
    ----------
    counts : collections.Counter
        Volumes ``seen``, ``restored``, ``skipped``, ``left for the next start``; ``sink failures``.
    """

    def __init__(
        self,
        profile: Profile,
        notifier: Notifier | None = None,
        read_profile: Callable[[], Profile] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._profile = profile
        self._liveness = Liveness(notifier or Notifier(), self.counts)
        self._dose = DoseControl(profile.dose, dose_log_file(profile))
        read = read_profile or (lambda: profile)
        self._restorer = ReloadingRestorer(
            profile, read, self._dose.change, self._liveness.reloading
        )
        self._early = Early(self._restorer)
        self._stop = StopSignal()
        self._mail: queue.SimpleQueue[str] = queue.SimpleQueue()  # names of ended threads, _STOP
        self._source_error: BaseException | None = None
        self._spool: Spool | None = None
        self._comes_again = False
        self._source_state = "running"
        self._backfill = Backfill()

    def stop(self) -> None:
        """Stop and drain; called again, drop what waits. May be called from a signal handler."""
        self._mail.put(_STOP)  # the one thing that is safe to do in a signal handler

    def reload(self) -> None:
        """Read the profile again and use its model. May be called from a signal handler."""
        self._mail.put(_RELOAD)

    def run(self) -> bool:
        """Run until the source ends or `stop` is called.

        Returns
        -------
        bool
            Everything ended as it should; otherwise the log says what died.

        Raises
        ------
        LiveRestoreError
            It could not start.
        """
        with ExitStack() as opened:
            with self._liveness.starting():
                source, sinks = self._open(opened)
            logger.info("ready")
            self._liveness.ready()
            return self._run(source, sinks)

    def _open(self, opened: ExitStack) -> tuple[Source, dict[str, Sink]]:
        # Sinks first: viewers connect while the model loads.
        commands = {
            "reload": self._restorer.reload,
            "drain": self._drain,
            "dose-on": self._dose.switch_on,
            "dose-off": self._dose.switch_off,
        }
        sinks = open_sinks(self._profile, commands, {"dose": self._dose.status})
        for sink in sinks.values():
            opened.enter_context(sink)
        self._metrics = opened.enter_context(open_metrics(self._profile) or nullcontext())
        opened.enter_context(self._restorer)
        ledger = opened.enter_context(claimed_ledger(self._profile))
        self._record = Record(ledger, self._profile, self._metrics)
        source = open_source(self._profile, ledger)
        # What it gives it gives again to the next run, unless that was restored.
        self._comes_again = source.is_durable and ledger is not None
        if not source.is_durable:
            if ledger is not None:
                ledger.give_up_waiting("the program ended before it was restored")
            self._spool = opened.enter_context(open_spool(self._profile) or nullcontext())
        opened.enter_context(self._dose)
        opened.enter_context(source)
        self._dose.connect(source)
        return source, sinks

    def _run(self, source: Source, sinks: dict[str, Sink]) -> bool:
        stacks = self._profile.stacks
        self._deliveries = {
            name: Delivery(name, sink, self._record, self._sink_ended, self._unsent)
            for name, sink in sinks.items()
        }
        self._fates = Fates(
            self.counts,
            self._record,
            self._spool,
            self._deliveries,
            self._comes_again,
            self._settled,
        )
        inbox: VolumeQueue[Waiting] = VolumeQueue(
            self._profile.queue.memory_mb * _MB,
            self._profile.queue.order,
            lambda volume: volume.held_nbytes,
            None if source.is_durable else self._pass_over,
            stream=lambda volume: (volume.key.position, volume.key.channel),
            to_disk=self._fates.keep if self._spool else None,
            when_idle=self._early.work,
        )
        self._assembler = Assembler(
            room := room_for_stacks(stacks.memory_mb),
            stacks.timeout_s,
            stacks.partial == "restore",
            None if source.is_durable else room,  # others may announce anything
            self._early.watch(inbox.nudge),
        )
        restoring: Stage[Waiting] = Stage(
            "restore",
            inbox,
            self._restore,
            self._restore_failed,
            lambda: self._after_restoring(inbox, restoring),
            num_workers=self._restorer.num_workers,
            fatal=(DeviceLostError,),
        )
        queues = inbox, self._spool, self._restorer, self._deliveries, sinks
        monitor(self._metrics, source, self._assembler, *queues)
        for spooled in self._fates.left_over():
            inbox.put(spooled, is_live=False)
            self._liveness.tick()
        feeding = threading.Thread(target=self._feed, args=(source, inbox), name="source")
        threads = [feeding, restoring, *self._deliveries.values()]
        at_work: list[Working] = [restoring, *self._deliveries.values()]
        self._liveness.watch(
            lambda: at_work if self._restorer.may_hang else at_work[1:], lambda: self._source_state
        )
        for thread in reversed(threads):
            thread.start()
        self._supervise({thread.name for thread in threads}, inbox)
        for thread in threads:
            thread.join()
        logger.info("done: volumes %s", ", ".join(f"{self.counts[one]} {one}" for one in _TOLD))
        deliveries = self._deliveries.values()
        if failures := sum(one.num_failures for one in deliveries):
            self.counts["sink failures"] = failures
        errors = [restoring.error, *(one.error for one in deliveries)]
        return not any(errors) and self._source_error is None

    def _supervise(self, running: set[str], inbox: VolumeQueue[Waiting]) -> None:
        """Wait for all threads to end; drop what waits when told twice to stop, or out of time."""
        deadline = math.inf
        while running:
            self._liveness.tick()
            left = deadline - time.monotonic()
            word = None
            with suppress(queue.Empty):
                word = self._mail.get(timeout=min(max(left, 0.0), _SIGNAL_CHECK_S))
            if word == _STOP and self._stop.is_set():
                logger.warning("stopping at once")
                self._drop(inbox)
                return
            if word == _STOP or (word == _DRAIN and not self._stop.is_set()):
                logger.info("stopping: what waits is still restored; stop again to drop it")
                self._stop.set()
            elif word == _RELOAD:
                try:
                    logger.info("%s", self._restorer.reload())
                except LiveRestoreError as error:
                    logger.error("not reloaded: %s", error)
            elif word is not None and word != _DRAIN:
                running.discard(word)
                if not running & {"source", "restore"}:  # either may still have something to tell
                    for delivery in self._deliveries.values():
                        delivery.queue.close()
            if self._stop.is_set() and deadline == math.inf:
                deadline = time.monotonic() + self._profile.queue.shutdown_s
                self._liveness.ending(self._profile.queue.shutdown_s)
            if time.monotonic() > deadline:
                logger.warning("shutdown_s is over")
                self._drop(inbox)
                return

    def _drain(self) -> str:
        self._mail.put(_DRAIN)
        return "nothing more is taken; what waits is restored, then the daemon ends"

    def _drop(self, inbox: VolumeQueue[Waiting]) -> None:
        for volume in inbox.clear():
            self._fates.keep_or_skip(volume, "dropped at shutdown")
            self._liveness.tick()
        for delivery in self._deliveries.values():
            delivery.drop()

    # --- source thread ---

    def _feed(self, source: Source, inbox: VolumeQueue[Waiting]) -> None:
        try:
            with closing(source.events(self._stop)) as events:
                for event in events:
                    self._handle(event, inbox)
                    self._take(self._assembler.give_up_overdue(), inbox)
        except QueueClosedError:
            logger.debug("the source ends, since nothing takes its volumes any more")
        except LiveRestoreError as error:
            self._source_error = error
            logger.error("%s", error)
        except Exception as error:
            self._source_error = error
            logger.exception("the source died")
        finally:
            # A source that died, or whose volumes nobody takes, leaves acquisitions without an end.
            for acquisition in self._assembler.running:
                reason = str(self._source_error or "the service ends")
                with suppress(QueueClosedError):
                    self._end(AcquisitionEnd(acquisition, reason), inbox)
            inbox.close()
            self._mail.put("source")

    def _handle(self, event: Event, inbox: VolumeQueue[Waiting]) -> None:
        match event:
            case AcquisitionInfo():
                self._take(self._assembler.start(event), inbox)
                self._record.start(event)
                self._fates.start(event.acquisition)
                self._fates.send(event)
            case Plane():
                self._dose.plane(event)
                self._take(self._assembler.add(event), inbox)
            case AcquisitionEnd():
                self._end(event, inbox)
            case SourceState(text):
                self._source_state = text or self._source_state
                self._fates.send(event)
            case LightReading():
                self._dose.reading(event)

    def _end(self, end: AcquisitionEnd, inbox: VolumeQueue[Waiting]) -> None:
        try:
            self._take(self._assembler.end(end.acquisition), inbox)
            self._record.end(end)
        finally:
            self._fates.end(end)

    def _take(self, settled: Iterable[Settled], inbox: VolumeQueue[Waiting]) -> None:
        """Queue volumes for restoration, and tell of those that can't be restored.

        Where nothing is restored any more, all are told of before `QueueClosedError` is raised.
        """
        is_closed = False
        for one in settled:
            self._fates.seen(one.key)
            self._dose.seen(one.key)
            if isinstance(one, Skipped):
                # The end of this run may have cut a stack that the next one reads whole.
                is_cut = self._comes_again and self._stop.is_set() and one.cause == "incomplete"
                self._fates.leave(one.key) if is_cut else self._fates.skip(one)
                continue
            try:
                inbox.put(one, one.is_live)
            except QueueClosedError:
                is_closed = True
                self._fates.keep_or_skip(one, "the service is ending, nothing restores it")
        if is_closed:
            raise QueueClosedError

    def _pass_over(self, volume: Waiting) -> None:
        reason = "restoration is slower than the acquisition"
        self._fates.give_up(volume, Skipped(volume.key, reason, cause="too_slow"))

    # --- restore thread ---

    def _restore(self, waiting: Waiting) -> Callable[[], None]:
        try:
            volume = waiting.load() if isinstance(waiting, Spooled) else waiting
            return partial(self._restored, waiting, self._restorer.restore(volume))
        except SpoolError as error:
            return partial(self._fates.give_up_unreadable, waiting, str(error))
        except DeviceLostError:
            raise
        except LiveRestoreError as error:
            # Understood, and this volume's own fault: however many there are, the next may be well.
            skipped = Skipped(waiting.key, str(error), is_final=True, cause="refused")
            return partial(self._fates.give_up, waiting, skipped)

    def _restored(self, waiting: Waiting, restored: Restored) -> None:
        self.counts["restored"] += 1
        self._record.restored(restored)
        logger.debug("%s: restored in %.3f s", restored.key, restored.timing_s["restoring"])
        restored = replace(restored, is_backfill=self._backfill.is_backfill(restored.raw))
        self._fates.send(self._dose.restored(restored))
        self._fates.settle(restored.key)
        self._fates.discard(waiting)

    def _restore_failed(self, volume: Waiting, error: Exception) -> None:
        if isinstance(error, DeviceLostError):
            # Not the volume's fault: the service manager starts the program again, and that restores it.
            logger.error("%s", error)
            self._fates.keep_or_skip(volume, str(error))
            return
        logger.error("%s: restoration failed", volume.key, exc_info=error)
        reason = f"restoration failed: {type(error).__name__}: {error}"
        self._fates.give_up(volume, Skipped(volume.key, reason, is_final=True, cause="failed"))

    def _after_restoring(self, inbox: VolumeQueue[Waiting], stage: Stage[Waiting]) -> None:
        if stage.error:
            self._stop.fail()  # before the source finds the inbox closed
        for volume in inbox.clear():  # only where the stage died
            self._fates.keep_or_skip(volume, "the restore stage has ended")
        self._stop.set()
        self._mail.put("restore")

    # --- what all threads use ---

    def _settled(self, key: VolumeKey) -> None:
        self._early.settle(key)
        self._dose.settle(key)

    def _unsent(self, delivery: Delivery, restored: Restored) -> None:
        self._fates.unsent(delivery.name, restored)

    def _sink_ended(self, delivery: Delivery) -> None:
        if delivery.error:
            self._stop.fail()
        self._mail.put(delivery.name)
