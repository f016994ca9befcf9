"""The model of a changed profile in place of the one in use, while volumes come."""

from __future__ import annotations

import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self

from live_restore.errors import DeviceLostError, LiveRestoreError, ProfileError
from live_restore.freed_memory import give_back
from live_restore.guard import open_guard
from live_restore.interfaces import Restorer
from live_restore.profile import DoseSettings, Profile
from live_restore.restore import open_restorer
from live_restore.volume import GrowingVolume, Restored, Volume

__all__ = ["ReloadingRestorer"]

logger = logging.getLogger(__name__)

_RELOADABLE = ("model", "guard", "dose")


class ReloadingRestorer:
    """The restorer of a profile, replaced between two volumes when told to read the profile again.

    Parameters
    ----------
    profile : Profile
        What the service runs.
    read : callable
        Gives the profile as it is now; raises `ProfileError` where it is wrong.
    change_dose : callable, optional
        Takes its table [dose]; raises `ProfileError` where that needs a restart.
    on_loading : callable, optional
        Called with True when the profile is read again, with False when that has ended, well or not.

    Attributes
    ----------
    reloads : mapping of str to int
        How often a model was ``loaded``, could not be (``failed``), or the order was ``refused``.
    """

    def __init__(
        self,
        profile: Profile,
        read: Callable[[], Profile],
        change_dose: Callable[[DoseSettings], None] = lambda _: None,
        on_loading: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._profile = profile
        self._change_dose = change_dose
        self._on_loading = on_loading
        self._read = read
        self.reloads = {"loaded": 0, "failed": 0, "refused": 0}
        self._current: Restorer | None = None
        self._num_workers = 1
        self._device = profile.model.device
        self._users: Counter[int] = Counter()  # of restorers by their ids
        self._in_use = threading.Condition()
        self._loading: threading.Thread | None = None
        self._reloads = threading.Lock()

    def __enter__(self) -> Self:
        restorer = _open(self._profile)
        restorer.__enter__()
        self._num_workers = restorer.num_workers
        self._current = restorer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._reloads:
            if self._loading is not None:
                self._loading.join()
            restorer, self._current = self._current, None
        if restorer is not None:
            try:
                restorer.__exit__(kind, error, traceback)
            except RuntimeError as failure:  # a lost device can't be closed either
                logger.warning("the restorer's end: %s", str(failure).splitlines()[0])

    def restore(self, volume: Volume) -> Restored:
        """See `Restorer.restore`.

        Where the device is lost, it is opened anew; with ``device = "auto"`` the processor takes its place if
        that fails.

        Raises
        ------
        DeviceLostError
            It is lost to this process.
        """
        from live_restore.restore.loss import telling_of_loss

        device = self._profile.model.device
        for devices in ((device, "cpu"), ("cpu",)) if device == "auto" else ((device,),):
            restorer = self._current
            try:
                with self._using() as restorer, telling_of_loss():
                    return restorer.restore(volume)
            except DeviceLostError as error:
                self._open_anew(restorer, devices, error)
        with self._using() as successor, telling_of_loss():
            return successor.restore(volume)

    def _open_anew(
        self, lost: Restorer | None, devices: Sequence[str], error: DeviceLostError
    ) -> None:
        """Another restorer, on the first device that has one, for one that is lost, unless somebody was faster."""
        with self._reloads:
            if self._current is not lost:
                return
            logger.error("%s: it is opened anew", error)
            model = self._profile.model
            for device in devices:
                changed = model.model_copy(update={"device": device})
                try:
                    successor = _open(self._profile.model_copy(update={"model": changed}))
                    successor.__enter__()
                except (LiveRestoreError, RuntimeError) as failure:
                    logger.error("%s: %s", device, str(failure).splitlines()[0])
                    continue
                self._device = device
                with self._in_use:
                    self._current = successor
                logger.warning("volumes are restored again, device %s", device)
                return
        raise error

    def advance(self, growing: Sequence[GrowingVolume]) -> bool:
        """See `Restorer.advance`."""
        with self._using() as restorer:
            return restorer.advance(growing)

    @property
    def num_workers(self) -> int:
        """See `Restorer`."""
        with self._using() as restorer:
            return restorer.num_workers

    @property
    def may_hang(self) -> bool:
        """Whether a volume that takes very long is a sign: a GPU's driver may hang, a processor is slow."""
        import torch

        is_processor = self._device == "cpu" or (
            self._device == "auto" and not torch.cuda.is_available()
        )
        return not is_processor

    @contextmanager
    def _using(self) -> Iterator[Restorer]:
        """The restorer in use, which stays until nobody uses it."""
        with self._in_use:
            restorer = self._current
            if restorer is None:
                raise RuntimeError("entered first")
            self._users[id(restorer)] += 1
        try:
            yield restorer
        finally:
            with self._in_use:
                self._users[id(restorer)] -= 1
                self._in_use.notify_all()

    def reload(self) -> str:
        """Check the profile, take its [dose] and begin to load its model; what was begun, in words.

        The model in use restores until the new one is warm, and stays if that can't be loaded.
        From any thread.

        Raises
        ------
        ProfileError
            The profile is wrong, or more than its model and guard has changed, or a model is being loaded.
        """
        self._on_loading(True)
        try:
            return self._reload(self._read())
        except LiveRestoreError:
            self.reloads["refused"] += 1
            self._on_loading(False)
            raise

    def _reload(self, profile: Profile) -> str:
        changed = [
            f"[{name}]"
            for name in Profile.model_fields
            if name not in _RELOADABLE and getattr(profile, name) != getattr(self._profile, name)
        ]
        if changed:
            raise ProfileError(
                f"{', '.join(changed)} changed, and can't change while the daemon runs: nothing is "
                "reloaded; restart it, or change [model], [guard] and [dose] alone"
            )
        self._change_dose(profile.dose)
        if not self._reloads.acquire(
            blocking=False
        ):  # a lost device is opened anew, which takes long
            raise ProfileError("a model is being loaded already: ask again when it is in use")
        try:
            if self._current is None:
                raise ProfileError("the daemon starts or ends: ask again when it is ready")
            if self._loading is not None and self._loading.is_alive():
                raise ProfileError("a model is being loaded already: ask again when it is in use")
            self._loading = threading.Thread(
                target=self._load, args=(profile,), name="reloading the model"
            )
            self._loading.start()
        finally:
            self._reloads.release()
        return f"loading model {profile.model.path}; volumes are restored with it when it is warm"

    def _load(self, profile: Profile) -> None:
        try:
            self._load_successor(profile)
        finally:
            self._on_loading(False)

    def _load_successor(self, profile: Profile) -> None:
        try:
            successor = _open(profile)
            successor.__enter__()
            if (num_devices := successor.num_workers) < self._num_workers:
                successor.__exit__(None, None, None)
                raise ProfileError(
                    f"device {profile.model.device}: {num_devices} at work where the daemon was started for "
                    f"{self._num_workers}: restart it"
                )
        except LiveRestoreError as error:
            self.reloads["failed"] += 1
            logger.error("the model isn't reloaded, the one in use stays: %s", error)
        except Exception:
            self.reloads["failed"] += 1
            logger.exception("the model isn't reloaded, the one in use stays")
        else:
            with self._in_use:
                before, self._current = self._current, successor
                self._profile, self._device = profile, profile.model.device
                self._in_use.wait_for(lambda: not self._users[id(before)])
                del self._users[id(before)]
            if before is not None:
                before.__exit__(None, None, None)
            del before
            gc.collect()  # it stands in a cycle, which Python would look for at some later time
            give_back()
            self.reloads["loaded"] += 1
            logger.info("model reloaded: %s", profile.model.path)


def _open(profile: Profile) -> Restorer:
    return open_restorer(profile.model, partial(open_guard, profile.guard))
