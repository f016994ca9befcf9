"""How well the guard knows what the default model does: a table.

python benchmarks/guard.py [--fields 6] [--times 6] [--envelope FILE] [--only PARTS] [--csv FILE]

Volumes of known truth come as short time-lapses through the restorer with its guard, as a service
has it: 10 % of the time for judging, uint16 results. True NRMSE: of the restored volume at its best gain and
offset, over the standard deviation of the truth.
"""

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import guard_cases as cases
import numpy as np
from scipy import stats

from live_restore.assessment import Assessment
from live_restore.guard.camera import find_camera
from live_restore.guard.dose import MARGIN
from live_restore.guard.envelope import Envelope, envelope_beside
from live_restore.guard.guard import Guard
from live_restore.restore.manner import Manner
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import AcquisitionInfo, Restored, Volume, VolumeKey, utc_now

PARTS = ("ladder", "held out", "structures", "real", "outside", "dose", "cost")
TARGET = 0.35


@dataclass
class Row:
    """One volume: what was true, what the guard said."""

    group: str
    name: str
    photons: float
    time: int
    true: float
    found: Assessment


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=6, help="specimens of each kind")
    parser.add_argument("--times", type=int, default=6, help="time points of each")
    parser.add_argument("--envelope", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("stacks", nargs="*", type=Path, help="real ones; the tests' without")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--csv", type=Path, help="each volume on a line")
    options = parser.parse_args()
    only = options.only.split(",")
    model = load_model("default")
    envelope = Envelope.load(options.envelope or envelope_beside(model.path))
    guard = Guard(find_camera("demo"), envelope, TARGET)
    rows: list[Row] = []
    manner = Manner(attention="previous", normalisation="running")
    with RcanRestorer(model, options.device, manner=manner, examiner=guard) as restorer:
        sets = {
            "ladder": lambda: cases.inside(options.fields),
            "held out": lambda: cases.held_out(options.fields),
            "structures": lambda: cases.structures(max(1, options.fields // 2)),
            "real": lambda: cases.real(options.stacks),
            "outside": lambda: cases.outside(options.fields),
        }
        for part in only:
            if part in sets:
                began = time.monotonic()
                rows += run(restorer, sets[part](), options.times)
                print(f"({part}: {time.monotonic() - began:.0f} s)", flush=True)
        report(rows, options.times)
        if "dose" in only:
            doses(restorer, rows, options)
        if "cost" in only:
            cost(restorer)
    if options.csv:
        write(options.csv, rows)


def run(restorer: RcanRestorer, some: Iterable[cases.Case], num_times: int) -> list[Row]:
    """Each case as a time-lapse of its own."""
    rows = []
    for number, case in enumerate(some):
        for point in range(num_times):
            rng = np.random.default_rng([number, point, len(case.name)])
            restored = restore(restorer, case, point, case.expose(rng))
            assert restored.assessment is not None
            true = nrmse(restored.data, case.truth)
            rows.append(Row(case.group, case.name, case.photons, point, true, restored.assessment))
    return rows


def restore(restorer: RcanRestorer, case: cases.Case, point: int, raw: np.ndarray) -> Restored:
    """One volume of a case's time-lapse."""
    name = f"{case.group} {case.name} {case.photons}"
    info = AcquisitionInfo(name, raw.shape, raw.dtype, case.voxel_size_um, (case.channel,))
    key = VolumeKey(name, "0", point, case.channel)
    return restorer.restore(Volume(key, info, raw, None, utc_now(), time.monotonic()))


def nrmse(restored: np.ndarray, truth: np.ndarray) -> float:
    """The true one; 1 where there is no truth to be found."""
    if not truth.std() > 0 or not restored.std() > 0:
        return 1.0
    r = np.corrcoef(restored.ravel(), truth.ravel())[0, 1]
    return float(np.sqrt(max(1 - max(r, 0.0) ** 2, 0.0)))


def report(rows: list[Row], num_times: int) -> None:
    """The table."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    print(
        f"\n{'volumes':28}{'n':>6}{'Spearman':>10}{'|log|':>8}{'coverage':>10}{'green':>8}  verdicts"
    )
    for when, points in (("first of a stream", {0}), ("last", {num_times - 1})):
        for group, ones in groups.items():
            line(f"{group}, {when}", [row for row in ones if row.time in points])
    known = [r for r in rows if r.group in ("ladder", "held out", "structures", "real")]
    line("all of known truth, last", [r for r in known if r.time == num_times - 1])
    wrong = [r for r in rows if r.group not in ("ladder", "held out", "structures", "real")]
    inside = [
        r for r in rows if r.group == "ladder" and r.true <= TARGET / MARGIN and r.photons >= 12
    ]
    print(
        f"\nnot green, and severity against in-envelope volumes that meet the target with a margin (n = {len(inside)}, "
        f"{np.mean([r.found.verdict == 'green' for r in inside]) if inside else 0:.0%} green)"
    )
    for group in dict.fromkeys(r.group for r in wrong):
        ones = [r for r in wrong if r.group == group]
        print(
            f"{group:28}{len(ones):6}  not green {np.mean([r.found.verdict != 'green' for r in ones]):.0%}  "
            f"AUC {auc(ones, inside):.3f}"
        )
    if wrong and inside:
        print(
            f"{'in sum':28}{len(wrong):6}  not green {np.mean([r.found.verdict != 'green' for r in wrong]):.1%}  "
            f"AUC {auc(wrong, inside):.3f}"
        )
    green = [r for r in rows if r.found.verdict == "green"]
    if green:
        false = [r for r in green if r.true > TARGET]
        print(
            f"\ngreen: {len(green)} of {len(rows)}; of these worse than the target of {TARGET}: "
            f"{len(false)} = {len(false) / len(green):.1%}"
        )
        for r in false[:12]:
            print(
                f"    {r.group}, {r.name}, {r.photons:.0f} photons: true {r.true:.2f}, estimated {r.found.error:.2f}"
            )


def line(name: str, rows: list[Row]) -> None:
    """One line of the table."""
    told = [r for r in rows if r.found.error is not None and r.true < 0.95]
    if len(told) < 3:
        return
    true, error = (np.array(v) for v in zip(*((r.true, r.found.error) for r in told), strict=True))
    bounded = [r for r in told if r.found.error_bound is not None and r.found.is_valid]
    covered = np.mean([r.true <= r.found.error_bound for r in bounded]) if bounded else float("nan")
    verdicts = defaultdict(int)
    for r in rows:
        verdicts[r.found.verdict] += 1
    print(
        f"{name:28}{len(told):6}{stats.spearmanr(true, error)[0]:10.3f}"
        f"{np.median(np.abs(np.log(error / true))):8.3f}{covered:10.2f}"
        f"{verdicts['green'] / len(rows):8.2f}  {dict(verdicts)}"
    )


def auc(wrong: list[Row], right: list[Row]) -> float:
    """Chance that one of the wrong is called more severe than one of the right."""
    if not wrong or not right:
        return float("nan")
    a, b = (np.array([r.found.severity for r in rows]) for rows in (wrong, right))
    return float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))


def doses(restorer: RcanRestorer, rows: list[Row], options: argparse.Namespace) -> None:
    """The advised dose against the lowest that would have done, by exposures at each."""
    saved, possible, met, factors = [], [], [], []
    chosen = [
        c
        for c in [
            *cases.inside(options.fields),
            *cases.held_out(options.fields),
            *cases.real(options.stacks),
        ]
        if c.photons in (24.0, 48.0)
    ]
    advice = {
        (r.group, r.name, r.photons): r.found.dose
        for r in rows
        if r.time == max(x.time for x in rows)
    }
    for case in chosen:
        dose = advice.get((case.group, case.name, case.photons))
        if dose is None or dose.lowest is None or dose.lowest > 1:
            continue
        trials = {
            p: trial(restorer, case, p) for p in sorted({*np.geomspace(0.125, 1, 10), dose.lowest})
        }
        if trials[1.0] > TARGET:
            continue
        lowest = min(p for p, error in trials.items() if error <= TARGET)
        met.append(trials[dose.lowest] <= TARGET)
        saved.append(1 - dose.lowest)
        possible.append(1 - lowest)
        factors.append(dose.lowest / lowest)
    if met:
        print(
            f"\ndose: {len(met)} volumes; the advised lowest dose meets the target in {np.mean(met):.1%}; light saved "
            f"{np.mean(saved):.1%} of {np.mean(possible):.1%} possible (down to an eighth) = {np.sum(saved) / np.sum(possible):.1%}; "
            f"advised over lowest, median {np.median(factors):.2f}"
        )


def trial(restorer: RcanRestorer, case: cases.Case, dose: float) -> float:
    """The true error at another dose."""
    light = case.truth * np.float32(dose / cases.CAMERA.quantum_efficiency)
    raw = cases.CAMERA.expose(light, np.random.default_rng(99))
    other = cases.Case(
        "trial", case.name, case.channel, case.truth, case.expose, case.voxel_size_um, dose
    )
    return nrmse(restore(restorer, other, 0, raw).data, case.truth)


def cost(restorer: RcanRestorer) -> None:
    """Seconds of judging over seconds of restoring, in one run."""
    scope = cases.SimulatedMicroscope((64, 256, 256), cases.VOXEL_UM, ("nuclei",), 20.0)
    rate = (scope.truth(0, "nuclei") - 100) / np.float32(2.17 * 0.82)
    case = cases.of("cost", "large", "nuclei", rate.astype(np.float32), 1.0)
    judging, restoring = [], []
    for point in range(10):
        restored = restore(restorer, case, point, case.expose(np.random.default_rng(point)))
        judging.append(restored.timing_s["judging"])
        restoring.append(restored.timing_s["restoring"])
    print(
        f"\ncost, 64 x 256 x 256, ten volumes: judging {sum(judging):.2f} s of restoring {sum(restoring):.2f} s = "
        f"{sum(judging) / sum(restoring):.1%} (the first {judging[0] / restoring[0]:.1%})"
    )


def write(path: Path, rows: list[Row]) -> None:
    """Each volume on a line."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "group",
                "name",
                "photons",
                "time",
                "true",
                "estimate",
                "bound",
                "signal",
                "verdict",
                "severity",
                "reasons",
            ]
        )
        for r in rows:
            f = r.found
            writer.writerow(
                [
                    r.group,
                    r.name,
                    r.photons,
                    r.time,
                    r.true,
                    f.error,
                    f.error_bound,
                    f.signal,
                    f.verdict,
                    f.severity,
                    " | ".join(f.reasons),
                ]
            )


if __name__ == "__main__":
    main()
