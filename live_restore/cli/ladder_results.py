"""What ``live-restore ladder`` makes of the stacks: camera, envelope, advice, picture, and what it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.characterize.climbing import Climb, LadderAdvice
    from live_restore.characterize.ladder_folder import LadderCard, LadderFolder
    from live_restore.guard.camera import CameraCalibration
    from live_restore.profile import Profile

__all__ = ["report_ladder"]


def report_ladder(
    options: argparse.Namespace, profile: Profile, folders: Sequence[LadderFolder], console: Any
) -> None:
    """Measure what was taken, write it and say it.

    Parameters
    ----------
    options : argparse.Namespace
        Of the command.
    profile : Profile
        Model, camera and target.
    folders : sequence of LadderFolder
        Ladders that belong together.
    console : rich.console.Console
        For people.

    Raises
    ------
    CalibrationError
        The stacks can't tell; the text says why.
    SinkError
        Results can't be written.
    """
    from live_restore.characterize.build import build_envelope
    from live_restore.characterize.climbing import advise_ladder
    from live_restore.characterize.ladder_report import as_document, sentences
    from live_restore.errors import SinkError

    report = options.report or folders[0].path
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"--report {report}: can't be made ({error.strerror})") from error
    warnings: list[str] = []
    camera, name = _camera(options, profile, folders, report, warnings)
    climbs = _climb(profile, folders, camera, warnings)
    cards = {one.card.channel: one.card for one in folders}
    outcomes = [result.outcome for one in climbs for result in one.results]
    envelope = build_envelope(outcomes, climbs[0].use, camera, "matched stacks")
    path = report / "ladder.envelope"
    envelope.save(path)
    advices: dict[str, LadderAdvice] = {}
    for channel, card in cards.items():
        ones = [one for one in climbs if one.results[0].outcome.stack.channel == channel]
        if not ones:
            continue
        advice = advices[channel] = advise_ladder(ones, profile.guard.target_nrmse)
        said = sentences(advice, card, len(ones))
        _draw(report, ones, advice, card, said[0], len(cards) > 1)
        _print(console, advice, card, said)
    for warning in warnings:
        console.print(f"! {warning}", markup=False, soft_wrap=True, style="yellow")
    document = as_document(advices, climbs, cards, envelope, warnings)
    _save(report / "report.json", document)
    lines = [f"camera = {json.dumps(name, ensure_ascii=False)}"]
    lines += [f"envelope = {json.dumps(str(path.resolve()), ensure_ascii=False)}"]
    console.print(f"written: {report}", markup=False, soft_wrap=True)
    console.print(
        "In your profile:\n\n" + "\n".join(["[guard]", *lines]), markup=False, soft_wrap=True
    )
    if options.json:
        print(json.dumps(document, indent=2))


def _camera(
    options: argparse.Namespace,
    profile: Profile,
    folders: Sequence[LadderFolder],
    report: Path,
    warnings: list[str],
) -> tuple[CameraCalibration, str]:
    """The calibration, and how profiles name it."""
    from live_restore.characterize.exposure_ladder import measure_camera
    from live_restore.guard.camera import find_camera
    from live_restore.guard.transfer_picture import draw_transfer

    if options.camera is None:
        found = find_camera(profile.guard.camera or "")
        if found.method == "blind":
            warnings.append(
                f"the calibration of {found.name} is an estimate from one stack: the guard gives no advice on dose "
                "with it. Take the ladder with --camera"
            )
        return found, str(profile.guard.camera)
    dark = [] if options.no_dark else [one for folder in folders for one in folder.dark()]
    transfer = measure_camera(
        (field for folder in folders for field in folder.fields()),
        dark,
        options.offset,
        options.read_noise,
    )
    told: set[str] = set()
    for warning in transfer.warnings:
        what = warning.partition(": ")[2].partition(" by ")[0]  # of each plane the same
        if what not in told:
            told.add(what)
            warnings.append(warning)
    camera = transfer.calibration(options.camera, options.mode, " ".join(warnings))
    path = camera.save()
    draw_transfer(report / "camera.png", transfer, camera)
    return camera, path.name.removesuffix(".camera.json")


def _climb(
    profile: Profile,
    folders: Sequence[LadderFolder],
    camera: CameraCalibration,
    warnings: list[str],
) -> list[Climb]:
    """All fields that can be used.

    Raises
    ------
    CalibrationError
        None can.
    """
    from live_restore.characterize.climbing import climb
    from live_restore.characterize.ladder import Pusher
    from live_restore.errors import CalibrationError
    from live_restore.restore import open_restorer
    from live_restore.restore.restorer import RcanRestorer

    one_device = profile.model.device.split(",")[0]
    settings = profile.model.model_copy(update={"device": one_device})
    pusher = Pusher(camera)
    climbs: list[Climb] = []
    failed: list[str] = []
    with open_restorer(settings, lambda _: pusher) as restorer:
        if not isinstance(restorer, RcanRestorer):
            raise TypeError("one device gives one restorer")
        for folder in folders:
            for field in folder.fields():
                try:
                    found = climb(restorer, pusher, field, camera)
                except CalibrationError as error:
                    failed.append(str(error))
                else:
                    climbs.append(found)
                    warnings += found.warnings
    if not climbs:
        raise CalibrationError(
            failed[0] if failed else "no field was taken to its end: take the ladder again"
        )
    warnings += [f"{one} (this field isn't used)" for one in failed]
    return climbs


def _draw(
    report: Path,
    climbs: Sequence[Climb],
    advice: LadderAdvice,
    card: LadderCard,
    sentence: str,
    is_one_of_several: bool,
) -> None:
    from live_restore.characterize.ladder_picture import draw_ladder

    name = f"ladder {card.channel}.png" if is_one_of_several else "ladder.png"
    draw_ladder(report / name, climbs, advice, card, sentence)


def _save(path: Path, document: dict[str, Any]) -> None:
    from live_restore.errors import SinkError

    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(f"{path}: can't be written ({error.strerror})") from error


def _print(console: Any, advice: LadderAdvice, card: LadderCard, said: Sequence[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{card.channel}, by {card.control}"), title_justify="left")
    for column in (card.unit, "dose", "signal (e⁻)", "NRMSE", "largest", "guard says", ""):
        table.add_column(escape(column), justify="right")
    for row in advice.rows:
        mark = "enough" if row is advice.enough else ""
        estimate = "-" if row.estimate is None else f"{row.estimate:.2f}"
        table.add_row(
            f"{row.value:g}", f"{row.dose:.3f}", f"{row.signal:.1f}", f"{row.nrmse:.2f}", f"{row.worst:.2f}",
            estimate, mark,
        )  # fmt: skip
    console.print(table)
    for one in said:
        console.print(one, markup=False, soft_wrap=True)
