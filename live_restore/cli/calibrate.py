"""``live-restore calibrate``: a camera's gain, offset and read noise, from files, a folder or the microscope."""

from __future__ import annotations

import argparse
import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.guard.camera import CameraCalibration
    from live_restore.guard.exposures import Exposures
    from live_restore.guard.photon_transfer import PhotonTransfer
    from live_restore.profile import AcquisitionSource

__all__ = ["add_command"]

_FRACTIONS = (0.25, 0.5, 1.0, 2.0)  # of the profile's exposure


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "calibrate",
        help="measure your camera's gain, offset and read noise",
        description="From frames in the dark and series of identical exposures: in files (--dark, --light), "
        "in a folder that you save them into meanwhile (--folder), or taken by this program (--profile). "
        "--stack estimates from one z-stack. With it the guard tells photoelectrons, errors and dose.",
    )
    parser.add_argument("--camera", required=True, metavar="NAME", help="what to call the camera")
    parser.add_argument(
        "--mode",
        default="",
        metavar="TEXT",
        help='of its read-out, as "16 bit, low noise, binning 2"',
    )
    ways = parser.add_argument_group("frames")
    ways.add_argument(
        "--dark", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="TIFF files of two or more frames without light",
    )  # fmt: skip
    ways.add_argument(
        "--light", type=Path, nargs="+", action="append", default=[], metavar="FILE",
        help="TIFF files of two or more identical exposures each; several files for several levels. Files of "
        "one frame are a series together, one to each --light",
    )  # fmt: skip
    ways.add_argument(
        "--stack",
        type=Path,
        metavar="FILE",
        help="one raw z-stack: an estimate, without read noise",
    )
    ways.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="wait for dark*.tif and light*.tif to be saved here",
    )
    ways.add_argument(
        "--levels",
        type=_positive,
        default=2,
        metavar="N",
        help="light*.tif to wait for (default: 2)",
    )
    ways.add_argument("--timeout", type=float, metavar="S", help="wait for so long at most")
    ways.add_argument(
        "--profile", metavar="PROFILE",
        help='take them with the microscope of a profile whose [source] is kind = "acquisition"',
    )  # fmt: skip
    ways.add_argument(
        "--exposures", type=float, nargs="+", metavar="MS",
        help="of the lit series (default: a quarter, half, once and twice the profile's)",
    )  # fmt: skip
    ways.add_argument(
        "--dark-exposure",
        type=float,
        metavar="MS",
        help="of the dark frames (default: the profile's)",
    )
    ways.add_argument(
        "--frames", type=int, default=10, metavar="N", help="per series (default: 10)"
    )
    ways.add_argument("--yes", action="store_true", help="don't ask about light and shutter")
    known = parser.add_argument_group("what you know already")
    known.add_argument("--offset", type=float, metavar="COUNTS", help="without dark frames")
    known.add_argument(
        "--read-noise", type=float, metavar="ELECTRONS", help="without dark frames (--stack: 1.6)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write it (default: by name, in your folder)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout, the rest on stderr")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    _check_options(options)
    console = Console(stderr=options.json, highlight=False)
    transfer = _measure(options, console)
    camera = transfer.calibration(options.camera, options.mode)
    path = camera.save(options.output)
    picture = path.with_name(path.name.removesuffix(".json").removesuffix(".camera") + ".png")
    _draw(picture, transfer, camera)
    _print(console, transfer, camera)
    name = str(path.resolve()) if options.output else path.name.removesuffix(".camera.json")
    console.print(f"written: {path}, {picture}", markup=False, soft_wrap=True)
    lines = f"[guard]\ncamera = {json.dumps(name, ensure_ascii=False)}"
    console.print(f"In your profile:\n\n{lines}", markup=False, soft_wrap=True)
    if options.json:
        print(json.dumps(_as_json(transfer, camera, path, picture), indent=2))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """One way, and nothing of another.

    Raises
    ------
    ProfileError
        What doesn't go together.
    """
    from live_restore.errors import ProfileError

    files = bool(options.dark or options.light)
    ways = [
        name
        for name, is_given in (
            ("--dark/--light", files),
            ("--stack", options.stack),
            ("--folder", options.folder),
            ("--profile", options.profile),
        )
        if is_given
    ]
    if len(ways) != 1:
        raise ProfileError(
            f"calibrate: {' and '.join(ways) or 'no frames'} given; expected one of --light FILE... with "
            "--dark FILE..., --folder DIR, --profile PROFILE or --stack FILE"
        )
    if files and not options.light:
        raise ProfileError("calibrate: --dark without --light; lit series are needed too")
    knows = options.offset is not None or (options.read_noise is not None and not options.stack)
    if knows and (options.dark or options.profile):
        raise ProfileError(
            "calibrate: --offset and --read-noise are for calibrations without dark frames, which measure "
            "both; leave them out"
        )
    if options.read_noise is not None and options.read_noise < 0:
        raise ProfileError(f"--read-noise {options.read_noise:g}: 0 or more")
    if options.frames < 2:
        raise ProfileError(
            f"--frames {options.frames}: 2 or more, since noise is told from differences"
        )
    exposures = [*(options.exposures or []), options.dark_exposure or 1.0]
    if min(exposures) <= 0:
        raise ProfileError(f"exposure of {min(exposures):g} ms: more than 0")


def _measure(options: argparse.Namespace, console: Any) -> PhotonTransfer:
    from live_restore.calibration_frames import read_series, read_stack
    from live_restore.guard.blind import ASSUMED_READ_NOISE, estimate_blindly
    from live_restore.guard.photon_transfer import measure_photon_transfer

    if options.stack:
        noise = ASSUMED_READ_NOISE if options.read_noise is None else options.read_noise
        return estimate_blindly(
            str(options.stack), read_stack(options.stack), options.offset, noise
        )
    if options.profile:
        dark, light = _expose(options)
    elif options.folder:
        dark, light = _await_folder(options, console)
    else:
        dark = read_series(options.dark)
        light = list(chain.from_iterable(read_series(files) for files in options.light))
    return measure_photon_transfer(dark, light, options.offset, options.read_noise)


def _await_folder(
    options: argparse.Namespace, console: Any
) -> tuple[list[Exposures], list[Exposures]]:
    from live_restore.calibration_frames import CalibrationFolder

    needs_dark = options.offset is None
    console.print(
        f"Save into {options.folder}\n"
        + ("  dark*.tif   10 or more frames with the light off\n" if needs_dark else "")
        + f"  light*.tif  series of 2 or more identical exposures, {options.levels} files of them, brighter each\n"
        "(from Micro-Manager: a time lapse without interval, saved under these names). Ctrl-C ends.",
        markup=False,
        soft_wrap=True,
    )

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    folder = CalibrationFolder(options.folder)
    return folder.await_series(options.levels, needs_dark, tell, options.timeout)


def _expose(options: argparse.Namespace) -> tuple[list[Exposures], list[Exposures]]:
    """Dark and lit series from the microscope itself."""
    from live_restore.calibration_frames import LiveCamera
    from live_restore.cli.asking import wait_for_return

    settings = _own_acquisition(options.profile)
    exposure = settings.exposure_ms
    usual = exposure[0] if isinstance(exposure, tuple) else exposure
    exposures = options.exposures or [usual * fraction for fraction in _FRACTIONS]
    with LiveCamera(settings, options.frames) as camera:
        wait_for_return(
            "calibrate",
            options.yes,
            "Turn the lamp or laser off, or cover the camera (a shutter that opens with each exposure isn't "
            "enough).",
        )
        dark = [camera.expose("dark", options.dark_exposure or usual)]
        wait_for_return(
            "calibrate",
            options.yes,
            "Light on, and an evenly lit field or a fixed specimen in view, brightest part well below "
            "saturation.",
        )
        light = [camera.expose(f"light {one:g} ms", one) for one in exposures]
    return dark, light


def _own_acquisition(name: str) -> AcquisitionSource:
    """A profile's source, if this program acquires with it.

    Raises
    ------
    ProfileError
        It doesn't; what to do instead.
    """
    from live_restore.cli.profiles import open_profile
    from live_restore.errors import ProfileError
    from live_restore.profile import AcquisitionSource

    source = open_profile(name).source
    if isinstance(source, AcquisitionSource):
        return source
    if source.kind == "micromanager":
        raise ProfileError(
            f'profile {name}: its source, kind = "micromanager", follows acquisitions that you start; it '
            'can\'t start any. Give a profile with kind = "acquisition" and backend = "java", which has the '
            "running Micro-Manager acquire; or save the frames yourself, with --folder DIR in place of "
            "--profile"
        )
    raise ProfileError(
        f'profile {name}: its source is kind = "{source.kind}"; frames can be taken with kind = '
        '"acquisition" only. Save them yourself, with --folder DIR in place of --profile'
    )


def _draw(path: Path, transfer: PhotonTransfer, camera: CameraCalibration) -> None:
    from live_restore.errors import CalibrationError
    from live_restore.guard.transfer_picture import draw_transfer

    try:
        draw_transfer(path, transfer, camera)
    except OSError as error:
        raise CalibrationError(f"{path}: can't be written ({error.strerror})") from error


def _print(console: Any, transfer: PhotonTransfer, camera: CameraCalibration) -> None:
    from rich.markup import escape
    from rich.table import Table

    from live_restore.guard.transfer_picture import figures

    table = Table(
        title=escape(f"{camera.name}, {camera.method}"), title_justify="left", show_header=False
    )
    for name, value, unit in figures(camera):
        table.add_row(name, value, unit)
    used = [level for level in transfer.levels if not level.is_saturated]
    left_out = len(transfer.levels) - len(used)
    table.add_row(
        "levels",
        f"{len(used)}",
        f"up to {transfer.brightest:.0f} photoelectrons"
        + (f", {left_out} saturated left out" if left_out else ""),
    )
    line = transfer.line
    if camera.method == "photon transfer":
        table.add_row("fit", f"{line.chi_square:.1f}", "mean squared deviation in standard errors")
    if line.curvature_error < 1:
        table.add_row(
            "nonlinearity",
            f"{line.curvature:+.1%} ± {line.curvature_error:.1%}",
            "of the variance at the brightest level",
        )
    console.print(table)
    for warning in transfer.warnings:
        console.print(f"! {warning}", markup=False, soft_wrap=True, style="yellow")


def _as_json(
    transfer: PhotonTransfer, camera: CameraCalibration, path: Path, picture: Path
) -> dict[str, Any]:
    line = transfer.line
    is_known = line.curvature_error < 1
    return {
        **camera.model_dump(mode="json"),
        "name": path.name.removesuffix(".camera.json"),
        "file": str(path),
        "picture": str(picture),
        "warnings": list(transfer.warnings),
        "chi_square": line.chi_square if camera.method == "photon transfer" else None,
        "nonlinearity": line.curvature if is_known else None,
        "nonlinearity_error": line.curvature_error if is_known else None,
        "levels": [
            {
                "series": level.series,
                "signal": level.signal,
                "variance": level.variance,
                "num_pixels": level.num_pixels,
                "is_saturated": level.is_saturated,
            }
            for level in transfer.levels
        ],
    }
