"""The report: one page that needs no other file, and its pictures for slides."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from live_restore.characterize.pictures import (
    draw_blur,
    draw_bound,
    draw_examples,
    draw_light,
)
from live_restore.characterize.study import Study
from live_restore.characterize.summary import BLIND, NRMSE, bound_in_words, holding, sharpness
from live_restore.errors import CalibrationError
from live_restore.guard.envelope import Envelope, EnvelopeCard, Rung, Specimen

__all__ = ["write_report"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #1a1a1a; }
img { max-width: 100%; height: auto; display: block; margin: 1em 0; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { padding: .25em .9em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.say { background: #eef7f3; border-left: 4px solid #009e73; padding: .6em 1em; font-weight: 600; }
.warn { background: #fdf3e7; border-left: 4px solid #d55e00; padding: .4em 1em; margin: .4em 0; }
.note { color: #555; }
"""
_TRUTHS = {
    "unseen photons": "the light of the same stack that the model wasn't shown, sorted apart photon by photon",
    "matched stacks": "a second exposure of the same field",
    "simulation": "the noise-free volume of a simulation",
}


def write_report(folder: Path, envelope: Envelope, study: Study, target: float) -> list[Path]:
    """Write ``report.html`` and its pictures.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it isn't there; a report that is there is replaced.
    envelope : Envelope
        What was found.
    study : Study
        From what.
    target : float
        NRMSE that is wanted.

    Returns
    -------
    list of pathlib.Path
        The page first.

    Raises
    ------
    CalibrationError
        It can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write(folder, envelope, study, target)
    except OSError as error:
        raise CalibrationError(
            f"{error.filename or folder}: can't be written ({error.strerror})"
        ) from error


def _write(folder: Path, envelope: Envelope, study: Study, target: float) -> list[Path]:
    card = envelope.card
    pictures: list[Path] = []

    def picture(name: str) -> Path:
        pictures.append(folder / f"{name}.png")
        return pictures[-1]

    body = [_head(envelope, study, target)]
    for number, specimen in enumerate(card.specimens):
        mark = f"_{number + 1}" if len(card.specimens) > 1 else ""
        outcomes = [one for one in study.outcomes if one.stack.channel == specimen.channel]
        body.append(f"<h2>{escape(specimen.channel or 'How much light it needs')}</h2>")
        body.append(f'<p class="say">{_sentence(str(holding(specimen, target)))}</p>')
        light = picture(f"light{mark}")
        draw_light(light, specimen, outcomes, target)
        body.append(_image(light, "error against light"))
        body.append(_light_text(card, specimen))
        example = study.examples[specimen.channel]
        shown = picture(f"examples{mark}")
        draw_examples(shown, example, target)
        body.append(_image(shown, "raw and restored at less and less light"))
        body.append(_table(specimen.photon_ladder, "photoelectrons"))
        if specimen.blur_ladder:
            body.append("<h3>Blur</h3>")
            blur = picture(f"blur{mark}")
            draw_blur(blur, specimen)
            body.append(f"<p><b>{escape(BLIND)}.</b></p>{_image(blur, 'error against blur')}")
            blurred = picture(f"blur_examples{mark}")
            draw_examples(blurred, example, target, blurred=True)
            body.append(_image(blurred, "raw and restored, more and more blurred"))
            body.append(_table(specimen.blur_ladder, "blur"))
    bound = picture("bound")
    draw_bound(bound, envelope, study.outcomes, target)
    body.append(_bound_text(envelope, bound))
    body.append(_limits(envelope))
    page = folder / "report.html"
    part = page.with_name(page.name + ".part")
    title = f"Where {card.model_name} holds"
    part.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n",
        encoding="utf-8",
    )
    part.replace(page)
    return [page, *pictures]


def _head(envelope: Envelope, study: Study, target: float) -> str:
    card = envelope.card
    fields = len({one.stack.field_of_view for one in study.outcomes})
    stacks = len({one.stack.name for one in study.outcomes})
    lines = [
        f"<p>{stacks} high-dose stacks of {fields} fields of view, camera {escape(card.camera.name)}. Light was "
        "taken away from them as a dimmer exposure would, until the model broke; then they were blurred. "
        f"Each restored volume was compared with {_TRUTHS[card.truth]}.</p>",
        f'<p class="note">{escape(NRMSE)}. Here the target is {target:g}.</p>',
    ]
    lines += [f'<p class="warn">{_sentence(one)}</p>' for one in study.warnings]
    return "\n".join(lines)


def _light_text(card: EnvelopeCard, specimen: Specimen) -> str:
    b, c, d = specimen.curve
    return (
        '<p class="note">Each thin line is one stack, from its full light (right) to very little (left); dots are '
        "medians, bars what nine of ten stay below, crosses what the guard says of the same volumes without "
        "knowing the truth. The black line is the fit to the medians, NRMSE² = "
        f"{b:.3g} + {c:.3g}/S + {d:.3g}/S²: its first term is what no light removes, the second the photons' "
        f"noise, the third the camera's. The green region is where nine of ten fields met the target "
        f"({specimen.num_acquisitions} were there). S is the brightness of bright structures above the rest, in "
        f"photoelectrons of the camera {escape(card.camera.name)}.</p>"
    )


def _bound_text(envelope: Envelope, bound: Path) -> str:
    return (
        f'<h2>What the guard\'s estimate is worth</h2>\n<p class="say">{_sentence(bound_in_words(envelope))}</p>'
        f"\n{_image(bound, 'estimated against true error')}\n"
        '<p class="note">Each dot is one stack at one dose. Dots of one stack share its structures, so that the bound '
        f"is made from one of each field of view. {_sentence(sharpness(envelope))}</p>"
    )


def _table(rungs: tuple[Rung, ...], first: str) -> str:
    heads = ("true NRMSE", "worst tenth", "the guard's estimate", "flagged")
    names, values = ["photoelectrons"], ["{0.signal:.3g}"]
    if first == "blur":
        names, values = ["blur (voxels)", *names], ["{0.blur:g}", *values]
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{value.format(rung)}</td>" for value in values)
        + f"<td>{rung.nrmse:.2f}</td><td>{rung.worst:.2f}</td><td>{rung.estimate:.2f}</td>"
        f"<td>{rung.flagged:.0%}</td></tr>"
        for rung in rungs
    )
    head = "".join(f"<th>{name}</th>" for name in (*names, *heads))
    return f"<table><tr>{head}</tr>{rows}</table>"


def _limits(envelope: Envelope) -> str:
    card = envelope.card
    voxel = card.voxel_size_um
    tile = "x".join(map(str, card.tile_zyx))
    rows = [
        ("model", f"{card.model_name}, file {card.model_sha256[:12]}…"),
        ("camera and mode", card.camera.name),
        ("voxels (z, y, x)", " x ".join(f"{one:g}" for one in voxel) + " µm" if voxel else "unknown"),
        ("volumes", "x".join(map(str, card.shape_zyx))),
        ("attention", card.attention + (f", tiles of {tile}" if card.attention == "tile" else "")),
    ]  # fmt: skip
    for specimen in card.specimens:
        limits, name = specimen.limits, f" ({specimen.channel})" if specimen.channel else ""
        low, high = limits.noise_ratio
        rows += [
            (f"signal{name}", "{:.2g} to {:.3g} photoelectrons were tried".format(*specimen.signal_range)),
            (f"noise over the calibration's{name}", f"{low:.2f} to {high:.2f}"),
            (f"correlation of neighbouring noise{name}", f"up to {limits.correlation:.2f}"),
            (f"unlike these stacks{name}", _beyond(limits.likeness, specimen.channel in envelope.likeness)),
            (f"finer or coarser than these{name}", _beyond(limits.fineness, specimen.channel in envelope.fineness)),
        ]  # fmt: skip
    cells = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows)
    return (
        "<h2>Limits</h2>\n<p>What the guard holds a volume against. For another model file, camera or mode, or "
        f"tiles of another shape where attention is per tile, it says nothing.</p>\n<table>{cells}</table>"
        f'<p class="note">Made with live_restore {escape(card.made_with)}, {card.made_at:%Y-%m-%d %H:%M} UTC.</p>'
    )


def _beyond(limit: float, is_known: bool) -> str:
    return f"beyond {limit:.2f} standard deviations" if is_known else "can't be told"


def _sentence(text: str) -> str:
    """With a capital and a full stop, for the page."""
    return escape(f"{text[0].upper()}{text[1:]}.")


def _image(path: Path, what: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{data}">'
