"""Pairs from a user's own stacks: matched low- and high-dose volumes, or high-dose ones thinned."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import ProfileError, SourceError
from live_restore.matched import (
    MatchedPair,
    check_registration,
    match_folders,
    read_folder,
    read_pairs,
)
from live_restore.quality import affine_to_truth
from live_restore.restore.intensity import IntensityRange, measure_range
from live_restore.restore.model import Normalisation
from live_restore.simulation import Optics
from live_restore.thinning import blur, thin
from live_restore.train.config import FolderPairs, Patches, ThinnedPairs, Validation
from live_restore.train.pairs import (
    HeldOut,
    Pair,
    Patch,
    choose_window,
    cut_patch,
    fit_shape,
    normalise_pair,
    turn_patch,
)
from live_restore.volume import VoxelSize

__all__ = ["FolderOrigin", "ThinnedOrigin"]

logger = logging.getLogger(__name__)

_SAMPLED_VOXELS = (
    200_000  # whose percentiles normalise a thinned volume: good to 0.1 % of the range
)
_PSF_HALF_WIDTH_UM = (2.4, 1.6)  # axial, lateral


class FolderOrigin:
    """Matched volumes, all held in memory in their own dtype.

    Raises
    ------
    SourceError
        Files without a partner, halves that differ, or a single field of view.
    """

    def __init__(
        self,
        settings: FolderPairs,
        normalisation: Normalisation,
        validation: Validation,
        seed: int,
    ) -> None:
        pairs: list[tuple[str, str, Pair]] = []
        voxels: list[VoxelSize | None] = []
        files = match_folders(settings.low, settings.high)
        for one in read_pairs(files, validation.field_of_view):
            check_registration(one)
            pairs.append((one.name, one.field_of_view, _normalise_matched(one, normalisation)))
            voxels.append(one.voxel_size_um)
        self.voxel_size_um = _common(voxels)
        held = _held_out_fields([field for _, field, _ in pairs], validation, seed)
        self._training = [pair for _, field, pair in pairs if field not in held]
        self.held_out = [HeldOut("all", field, pair) for _, field, pair in pairs if field in held]
        self._num_fields = len({field for _, field, _ in pairs})
        logger.info(
            "%d pairs to learn from, %d held out (%s)",
            len(self._training),
            len(self.held_out),
            ", ".join(sorted(held)),
        )

    def draw(self, patches: Patches, rng: np.random.Generator) -> Patch:
        """A patch of one of the pairs."""
        shape = fit_shape(patches.shape_zyx, (pair.truth for pair in self._training))
        pair = self._training[rng.integers(len(self._training))]
        return cut_patch(pair, shape, patches, rng)

    def describe(self) -> str:
        """In words, for the model's card."""
        first = self._training[0].raw
        return (
            f"{len(self._training)} matched low- and high-dose volumes, the first of {first.shape} "
            f"voxels, of {self._num_fields} fields of view, {len(self.held_out)} more held out."
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """A high-dose stack in photoelectrons, its blurred twin, and voxels that stand for all."""

    electrons: NDArray[np.float32]
    blurred: NDArray[np.float32] | None
    own_range: IntensityRange
    sample: NDArray[np.float32]
    blurred_sample: NDArray[np.float32] | None


class ThinnedOrigin:
    """High-dose stacks, thinned anew for each patch.

    Raises
    ------
    SourceError
        A stack can't be read, or there is a single field of view.
    ProfileError
        The camera's offset lies above the stacks, or a blur is asked for and the voxel size isn't
        known.
    """

    def __init__(
        self,
        settings: ThinnedPairs,
        normalisation: Normalisation,
        validation: Validation,
        seed: int,
    ) -> None:
        self._settings = settings
        self._normalisation = normalisation
        self._seed = seed
        stacks: list[tuple[str, _Stack]] = []
        voxels: list[VoxelSize | None] = []
        for name, field, counts, voxel in read_folder(settings.high, validation.field_of_view):
            rng = np.random.default_rng([seed, 5, len(stacks)])
            stacks.append((field, self._open(name, counts, voxel, rng)))
            voxels.append(voxel)
        self.voxel_size_um = _common(voxels)
        held = _held_out_fields([field for field, _ in stacks], validation, seed)
        self._training = [stack for field, stack in stacks if field not in held]
        self.held_out = list(self._hold_out([one for one in stacks if one[0] in held]))
        logger.info(
            "%d stacks to learn from, held out: %s", len(self._training), ", ".join(sorted(held))
        )

    def draw(self, patches: Patches, rng: np.random.Generator) -> Patch:
        """A patch of one of the stacks at a dose drawn from the settings."""
        shape = fit_shape(patches.shape_zyx, (one.electrons for one in self._training))
        stack = self._training[rng.integers(len(self._training))]
        dose = math.exp(rng.uniform(*np.log(self._settings.dose)))
        window = choose_window(stack.electrons, stack.own_range, shape, patches, rng)
        sampled = self._expose(stack.sample, stack.blurred_sample, dose, rng)
        part = None if stack.blurred is None else stack.blurred[window]
        exposed = self._expose(stack.electrons[window], part, dose, rng)
        pair = dataclasses.replace(sampled, raw=exposed.raw, truth=exposed.truth)
        everything = (slice(None), slice(None), slice(None))
        return turn_patch(pair, everything, patches, rng)

    def describe(self) -> str:
        """In words, for the model's card."""
        low, high = self._settings.dose
        added = " and blurred" if self._settings.psf else ""
        return (
            f"{len(self._training)} high-dose stacks, thinned to {low:g} to {high:g} of their "
            f"light{added}; {len(self.held_out)} more held out."
        )

    def _open(
        self,
        name: str,
        counts: NDArray[Any],
        voxel: VoxelSize | None,
        rng: np.random.Generator,
    ) -> _Stack:
        camera = self._settings.camera
        electrons = (counts.astype(np.float32) - np.float32(camera.offset_counts)) / np.float32(
            camera.gain_counts_per_electron
        )
        if float(electrons.mean()) <= 0:
            raise ProfileError(
                f"[thinning.camera] offset_counts = {camera.offset_counts:g} lies above the mean of "
                f"{name}, {counts.mean():.1f}: give the counts of an unexposed pixel"
            )
        psf = self._psf(name, voxel)
        blurred = None if psf is None else blur(electrons, psf)
        where = rng.integers(electrons.size, size=min(electrons.size, _SAMPLED_VOXELS))
        percents = (self._normalisation.low_percent, self._normalisation.high_percent)
        return _Stack(
            electrons,
            blurred,
            measure_range(electrons, *percents, self._normalisation.epsilon),
            electrons.ravel()[where][None, None],
            None if blurred is None else blurred.ravel()[where][None, None],
        )

    def _psf(self, name: str, voxel: VoxelSize | None) -> NDArray[np.float32] | None:
        settings = self._settings.psf
        if settings is None:
            return None
        voxel = voxel or settings.voxel_size_um
        if voxel is None:
            raise ProfileError(
                f"[thinning.psf] {name} doesn't say its voxel size: give voxel_size_um in this table"
            )
        optics = Optics(**settings.model_dump(exclude={"voxel_size_um"}))
        axial, lateral = (
            max(1, round(extent / size))
            for extent, size in zip(_PSF_HALF_WIDTH_UM, voxel[:2], strict=True)
        )
        return optics.psf((2 * axial + 1, 2 * lateral + 1, 2 * lateral + 1), voxel)

    def _hold_out(self, stacks: Sequence[tuple[str, _Stack]]) -> Iterator[HeldOut]:
        """Each held-out stack at the lowest, the middle and the highest dose."""
        low, high = self._settings.dose
        for index, (field, stack) in enumerate(stacks):
            for dose in dict.fromkeys((low, math.sqrt(low * high), high)):
                rng = np.random.default_rng([self._seed, 6, index])
                pair = self._expose(stack.electrons, stack.blurred, dose, rng)
                yield HeldOut(f"dose_{dose:.3g}", field, pair)

    def _expose(
        self,
        electrons: NDArray[np.float32],
        blurred: NDArray[np.float32] | None,
        dose: float,
        rng: np.random.Generator,
    ) -> Pair:
        camera = self._settings.camera
        gain = np.float32(camera.gain_counts_per_electron)
        offset = np.float32(camera.offset_counts)
        raw, truth = thin(electrons, dose, camera.read_noise_electrons, rng, blurred)
        signal = float(np.percentile(electrons, 99) - np.median(electrons)) * dose
        counts = np.maximum(np.rint(raw * gain + offset), 0)
        return normalise_pair(counts, truth * gain + offset, self._normalisation, signal)


def _normalise_matched(one: MatchedPair, normalisation: Normalisation) -> Pair:
    """For the target "input" the high-dose half is fitted to the low-dose one's counts."""
    high = one.high
    if normalisation.target == "input":
        # The expectation of the low-dose volume is affine in the high-dose one, whatever the noise.
        high = affine_to_truth(one.high, one.low).astype(np.float32)
    return normalise_pair(one.low, high, normalisation)


def _held_out_fields(fields: Sequence[str], validation: Validation, seed: int) -> set[str]:
    known = sorted(set(fields))
    if unknown := sorted(set(validation.fields) - set(known)):
        raise ProfileError(
            f"[validation] fields: no field of view is called {', '.join(unknown)}; there are "
            f"{', '.join(known)}"
        )
    if len(known) < 2:
        raise SourceError(
            f"all volumes belong to one field of view, {known[0]}: training needs two, one of them to "
            "be held out. If they are different fields, say so by [validation] field_of_view"
        )
    if validation.fields:
        held = set(validation.fields)
    else:
        count = min(max(1, round(validation.fraction * len(known))), len(known) - 1)
        order = np.random.default_rng([seed, 7]).permutation(len(known))
        held = {known[i] for i in order[:count]}
    if len(held) == len(known):
        raise ProfileError("[validation] fields: holds out all fields of view; nothing is left")
    return held


def _common(voxels: Sequence[VoxelSize | None]) -> VoxelSize | None:
    """The voxel size of all volumes, if they share one."""
    known = [voxel for voxel in voxels if voxel is not None]
    if not known:
        return None
    if any(not np.allclose(voxel, known[0], rtol=0.01) for voxel in known):
        logger.warning(
            "the volumes have voxel sizes from %s to %s um: the model will know none",
            min(known),
            max(known),
        )
        return None
    return known[0]
