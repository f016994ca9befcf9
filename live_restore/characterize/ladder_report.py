"""What a ladder of light says, in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from live_restore.characterize.climbing import Climb, LadderAdvice
from live_restore.characterize.ladder_folder import LadderCard
from live_restore.guard.dose import MARGIN_ALIKE
from live_restore.guard.envelope import Envelope

__all__ = ["as_document", "sentences"]

_FEWEST_FIELDS = 9  # for a coverage of 0.9
_WORTH_SAYING = 1.05


def sentences(advice: LadderAdvice, card: LadderCard, num_fields: int) -> list[str]:
    """The advice, the most important first.

    Parameters
    ----------
    advice : LadderAdvice
        Of one channel.
    card : LadderCard
        Units, and what one normal stack is.
    num_fields : int
        Fields of view behind it.
    """
    said = [_enough(advice, card) if advice.enough else _too_little(advice, card)]
    floor = advice.curve.floor
    if advice.enough and floor > 0:
        said.append(f"An NRMSE of about {floor:.2f} would remain with any light.")
    if card.power > 1:
        said.append(
            f"The signal is taken to rise with the square of {card.control}: half of it is a quarter of the dose."
        )
    if num_fields < _FEWEST_FIELDS:
        said.append(
            f"This rests on {num_fields} field{'s' if num_fields > 1 else ''} of view, which are what counts, not "
            f"stacks: below {_FEWEST_FIELDS} the guard states no coverage for its error bound. Take ladders of more "
            "fields (positions in [source]), and give all their folders to --again."
        )
    return said


def _enough(advice: LadderAdvice, card: LadderCard) -> str:
    row = advice.enough
    if row is None:
        raise RuntimeError("only where a step is enough")
    of_own = card.dose_of(row.value)
    if of_own * _WORTH_SAYING < 1:
        than = f", {1 / of_own:.1f} times less light than a normal stack's {card.reference:g} {card.unit}"
    elif of_own > _WORTH_SAYING:
        than = f", {of_own:.1f} times the light of a normal stack's {card.reference:g} {card.unit}"
    else:
        than = ", as in a normal stack"
    text = f"{row.value:g} {card.unit} is enough{than}: NRMSE {row.worst:.2f}, the target is {advice.target:.2f}."
    if row is advice.rows[0]:
        return f"{text} It is the lowest step: perhaps less would do."
    below = advice.rows[advice.rows.index(row) - 1]
    if advice.dose is not None and below.dose < advice.dose < row.dose:
        text += f" By the curve, about {card.value_for(advice.dose):.3g} {card.unit} would do."
    return text


def _too_little(advice: LadderAdvice, card: LadderCard) -> str:
    top = advice.rows[-1]
    if top.worst <= advice.target:
        return (
            f"The highest step, {top.value:g} {card.unit}, just meets the target of {advice.target:.2f} (NRMSE "
            f"{top.worst:.2f}), without the margin of {MARGIN_ALIKE:g}: keep it, or give a little more light."
        )
    if advice.is_floor or advice.dose is None:
        return (
            f"More light will not help: an NRMSE of about {max(advice.curve.floor, advice.target):.2f} remains with "
            f"any light, the target is {advice.target:.2f}. A model trained on such specimens may do better."
        )
    return (
        f"No step is enough: the highest, {top.value:g} {card.unit}, has an NRMSE of {top.worst:.2f}, the target is "
        f"{advice.target:.2f}. By the curve, about {card.value_for(advice.dose):.3g} {card.unit} are needed."
    )


def as_document(
    advices: dict[str, LadderAdvice],
    climbs: Sequence[Climb],
    cards: dict[str, LadderCard],
    envelope: Envelope,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """For programs."""
    return {
        "model": {"name": envelope.card.model_name, "sha256": envelope.card.model_sha256},
        "camera": envelope.card.camera.model_dump(mode="json"),
        "warnings": list(warnings),
        "coverage": envelope.coverage,
        "num_fields": envelope.card.num_acquisitions,
        "channels": [
            {
                "channel": channel,
                "control": cards[channel].control,
                "normal": cards[channel].reference,
                "target_nrmse": advice.target,
                "enough": advice.enough.value if advice.enough else None,
                "by_the_curve": cards[channel].value_for(advice.dose) if advice.dose else None,
                "floor": advice.curve.floor,
                "more_light_helps": not advice.is_floor,
                "curve": [advice.curve.b, advice.curve.c, advice.curve.d],
                "advice": sentences(advice, cards[channel], _count(climbs, channel)),
                "steps": [
                    {
                        "value": row.value,
                        "dose": row.dose,
                        "signal": row.signal,
                        "nrmse": row.nrmse,
                        "worst": row.worst,
                        "estimate": row.estimate,
                    }
                    for row in advice.rows
                ],
            }
            for channel, advice in advices.items()
        ],
        "fields": [
            {
                "field": one.field,
                "bleached": one.bleach.lost,
                "bleaching_per_normal_stack": one.bleach.rate,
                "bleaching_error": one.bleach.rate_error,
                "drift_voxels": one.drift.voxels,
                "stacks": [
                    {
                        "value": r.value,
                        "dose": r.dose,
                        "nrmse": r.outcome.nrmse,
                        "estimate": r.outcome.found.error,
                    }
                    for r in one.results
                ],
            }
            for one in climbs
        ],
    }


def _count(climbs: Sequence[Climb], channel: str) -> int:
    return sum(one.results[0].outcome.stack.channel == channel for one in climbs)
