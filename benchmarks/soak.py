"""Whether the service loses anything or grows, however much goes wrong around it.

python benchmarks/soak.py [--minutes 120] [--seed 0] [--faults]

Three daemons (planes that are sent, a watched folder, Micro-Manager's stand-in), their viewers, and faults at random, as
tests/test_soak.py runs them for three minutes. Prints what became of the volumes, how often each fault came, and what
each process took in the second and in the last quarter of its life (memory: the least); with --faults also each of them when it comes. Ends
with 1 if a volume is lost or a process has grown. As root, output folders lie on small file systems that fill up and
become read-only; otherwise they only vanish. Takes up to 2 GB of temporary disk. Linux and macOS.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.test_soak import Soak


def main() -> None:
    """Run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", action="store_true", help="print each when it comes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tell = (lambda line: print(line, flush=True)) if options.faults else (lambda _: None)
        soak = Soak(Path(folder), options.minutes, options.seed, tell=tell)
        soak.run()
    tell_volumes(soak)
    tell_faults(soak)
    grown = tell_growth(soak)
    for problem in soak.problems + grown:
        print(f"PROBLEM: {problem}")
    sys.exit(1 if soak.problems or grown else 0)


def tell_volumes(soak: Soak) -> None:
    """What became of them."""
    print(
        "| source | volumes | written | told as skipped | not written, as told | lost |\n|---|---|---|---|---|---|"
    )
    for name, fates in soak.fates.items():
        good = fates["written"], fates["told"], fates["unwritten"]
        print(
            f"| {name} | {fates.total()} | {' | '.join(map(str, (*good, fates.total() - sum(good))))} |"
        )
    print(f"\n{soak.num_pictures} pictures at the page")


def tell_faults(soak: Soak) -> None:
    """How often each came."""
    print("\n| fault | times |\n|---|---|")
    for fault, number in sorted(soak.faults.items()):
        print(f"| {fault} | {number} |")


def tell_growth(soak: Soak) -> list[str]:
    """What each process took; those that grew too much."""
    print("\n| process | lived, s | threads | descriptors | MiB |\n|---|---|---|---|---|")
    for name, program in soak.measured.items():
        lived = max(map(len, program.samples.values()))
        told = " | ".join(f"{before:.0f}, {after:.0f}" for before, after in program.growth())
        print(f"| {name} | {lived} | {told} |")
    return soak.grown()


if __name__ == "__main__":
    main()
