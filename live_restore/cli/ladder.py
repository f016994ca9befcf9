"""``live-restore ladder``: the same field with less and more light; camera, envelope and advice from it."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.characterize.ladder_folder import LadderCard, LadderFolder
    from live_restore.characterize.ladder_taking import LadderPlan
    from live_restore.interfaces import StopSignal
    from live_restore.profile import AcquisitionSource, Profile

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ladder",
        help="take a field with less and more light: how much is enough for your model",
        description="Takes the same field at several exposures or powers, low to high, and the lowest once more to "
        "see what bleached; measures what the model makes of each against the brightest; and says how much light "
        "is enough. With --camera it calibrates the camera from the same stacks.",
    )
    parser.add_argument(
        "profile", metavar="PROFILE", help='one whose [source] is kind = "acquisition"'
    )
    light = parser.add_argument_group("light")
    light.add_argument(
        "--exposures", type=_positive, nargs="+", default=[], metavar="MS",
        help="of the steps (default: --steps of them, from a sixteenth of the profile's exposure up to it)",
    )  # fmt: skip
    light.add_argument("--steps", type=_two_or_more, default=6, metavar="N", help="default: 6")
    light.add_argument(
        "--repeats", type=_whole, default=2, metavar="N",
        help="stacks per step (default: 2; with 1 neither camera nor the highest step's error can be told)",
    )  # fmt: skip
    light.add_argument(
        "--property", default="", metavar="DEVICE-PROPERTY",
        help='vary this instead of the exposure, as "Laser-Power"',
    )  # fmt: skip
    light.add_argument(
        "--values", type=_positive, nargs="+", default=[], metavar="V", help="of --property"
    )
    light.add_argument("--channel", metavar="NAME", help="default: the profile's first")
    camera = parser.add_argument_group("camera (default: that of [guard])")
    camera.add_argument("--camera", metavar="NAME", help="calibrate it, and call it so")
    camera.add_argument(
        "--mode", default="", metavar="TEXT", help='of its read-out, as "16 bit, low noise"'
    )
    camera.add_argument(
        "--dark-exposure", type=_positive, metavar="MS", help="default: the profile's"
    )
    camera.add_argument(
        "--no-dark",
        action="store_true",
        help="take no dark frames; needs --offset and --read-noise",
    )
    camera.add_argument("--offset", type=float, metavar="COUNTS", help="without dark frames")
    camera.add_argument("--read-noise", type=float, metavar="ELECTRONS", help="likewise")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="where the stacks go (default: ladder- and the date, here)",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="where the results go (default: to the stacks)"
    )
    parser.add_argument(
        "--again", type=Path, nargs="+", default=[], metavar="DIR",
        help="take nothing: use the stacks of these folders of earlier ladders, together",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="don't ask about light and shutter")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, the rest on stderr")
    parser.set_defaults(run=_run)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return int(text)


def _two_or_more(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: expected 2 or more")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from live_restore.cli.ladder_results import report_ladder
    from live_restore.cli.profiles import open_profile

    console = Console(stderr=options.json, highlight=False)
    profile = open_profile(options.profile)
    _check_options(options, profile)
    folders = _open(options.again) if options.again else [_take(options, profile, console)]
    try:
        report_ladder(options, profile, folders, console)
    except Exception:
        kept = " ".join(str(one.path) for one in folders)
        console.print(
            f"The stacks are kept: live-restore ladder {options.profile} --again {kept}",
            markup=False,
            soft_wrap=True,
        )
        raise
    return 0


def _check_options(options: argparse.Namespace, profile: Profile) -> None:
    """What goes together.

    Raises
    ------
    ProfileError
        What doesn't.
    """
    from live_restore.errors import ProfileError

    if bool(options.property) != bool(options.values):
        raise ProfileError("ladder: --property and --values belong together")
    if options.property and options.exposures:
        raise ProfileError("ladder: --exposures or --property, not both: one thing is varied")
    for name in ("exposures", "values"):
        given = getattr(options, name)
        if given and len(set(given)) < 2:
            raise ProfileError(f"ladder: --{name} {given[0]:g}: two different ones at least")
    is_known = options.offset is not None and options.read_noise is not None
    if options.no_dark != is_known:
        raise ProfileError(
            "ladder: --no-dark needs --offset and --read-noise, as the camera's data sheet has them, and they it"
        )
    if options.camera is None:
        if profile.guard.camera is None:
            raise ProfileError(
                f"profile {options.profile}: its [guard] names no camera. Give --camera NAME, to calibrate it from "
                "the same stacks and some dark ones; or name a calibration from live-restore calibrate"
            )
        if options.no_dark or options.dark_exposure or options.mode:
            raise ProfileError(
                "ladder: --mode, --dark-exposure and --no-dark are for calibrating, with --camera NAME"
            )
    elif options.repeats < 2 and not options.again:
        raise ProfileError(
            "ladder: --camera needs --repeats 2 or more: noise is told from differences"
        )
    if options.again and (options.exposures or options.property or options.output):
        raise ProfileError("ladder: with --again nothing is taken: leave light and --output out")


def _open(paths: Sequence[Path]) -> list[LadderFolder]:
    """Ladders that belong together.

    Raises
    ------
    ProfileError
        They differ in what one normal stack is, or are the same one.
    """
    from live_restore.characterize.ladder_folder import LadderFolder
    from live_restore.errors import ProfileError

    folders = [LadderFolder.open(path) for path in paths]
    if len({one.path.resolve().name for one in folders}) < len(folders):
        raise ProfileError(
            "ladder: folders of the same name; rename one, fields are told apart by it"
        )
    first: dict[str, LadderCard] = {}
    for one in folders:
        card = first.setdefault(one.card.channel, one.card)
        kind = card.control, card.reference, card.power
        if (one.card.control, one.card.reference, one.card.power) != kind:
            raise ProfileError(
                f"{one.path}: varies {one.card.control}, {one.card.reference:g} is normal; the first of "
                f"{card.channel} has {card.control}, {card.reference:g}. Give those together that are alike"
            )
    return folders


def _take(options: argparse.Namespace, profile: Profile, console: Any) -> LadderFolder:
    from live_restore.characterize.ladder_folder import LadderFolder
    from live_restore.characterize.ladder_taking import LadderMicroscope, plan_ladder
    from live_restore.cli.asking import wait_for_return
    from live_restore.interfaces import StopSignal

    plan = plan_ladder(
        _own_acquisition(options.profile, profile), profile.dose, options.channel, options.repeats,
        options.steps, tuple(options.exposures), options.property, tuple(options.values),
    )  # fmt: skip
    _tell(console, plan)
    path = options.output or Path(f"ladder-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    folder = LadderFolder.create(path, plan.card)
    stop = StopSignal()

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    with LadderMicroscope(plan, folder, stop) as microscope:
        needs_dark = options.camera is not None and not options.no_dark
        if needs_dark:
            wait_for_return(
                "ladder",
                options.yes,
                "First some dark frames. Turn the lamp or laser off, or cover the camera (a shutter that opens "
                "with each exposure isn't enough).",
            )
            with _stopping(stop, console, folder):
                microscope.take_dark(options.dark_exposure)
        wait_for_return(
            "ladder",
            options.yes,
            "Light on; the field in view, in focus, brightest part below saturation.",
        )
        with _stopping(stop, console, folder):
            microscope.take(tell)
    return folder


def _own_acquisition(name: str, profile: Profile) -> AcquisitionSource:
    """The profile's source, which acquires.

    Raises
    ------
    ProfileError
        It doesn't; what to do instead.
    """
    from live_restore.errors import ProfileError
    from live_restore.profile import AcquisitionSource

    source = profile.source
    if isinstance(source, AcquisitionSource):
        return source
    hint = (
        'Give a profile with kind = "acquisition" and backend = "java", which has the running Micro-Manager acquire'
        if source.kind == "micromanager"
        else 'Give a profile with kind = "acquisition"'
    )
    raise ProfileError(
        f'profile {name}: its source is kind = "{source.kind}", which can\'t set the light. {hint}; or use live-restore '
        "calibrate and live-restore characterize on stacks that you have"
    )


def _tell(console: Any, plan: LadderPlan) -> None:
    """What the specimen will get."""
    card, values = plan.card, plan.values
    num = len(card.fields)
    steps = ", ".join(f"{one:g}" for one in values)
    normal = f"{card.reference:g} {card.unit}"
    console.print(
        f"{card.channel}, {num} field{'s' if num > 1 else ''}: {steps} {card.unit}, then {values[0]:g} once more, "
        f"{plan.settings.num_times} stack(s) of {plan.settings.num_slices} planes each.\n"
        f"Light on each field: {plan.dose_of_a_field:.1f} times that of one normal stack ({normal}). "
        "What you have set comes back after each step.",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _stopping(stop: StopSignal, console: Any, folder: LadderFolder) -> Iterator[None]:
    """Ctrl-C ends the acquisition in good order; a second one at once."""

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {one: signal.signal(one, handle) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            f"stopped; {len(folder.card.stacks)} stacks are in {folder.path}",
            markup=False,
            soft_wrap=True,
        )
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
