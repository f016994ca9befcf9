"""A child of ours for tests: ``python -m tests.obedient_child``, with orders on its input.

Writes a line for each thing that happens to it to the file that its orders name.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from live_restore.sources.child import GONE, Orders, end_at_once


def main() -> None:
    ready, ended = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def hear(word: str) -> None:
        ready.wait()
        tell(f"heard {word}")
        if word == "hang":
            threading.Event().wait()
        if word in ("end", GONE):
            ended.set()

    orders = Orders(hear if os.environ.get("LISTENS") else None)
    out = Path(orders.values["out"])
    tell(f"ordered {orders.values['number']} at level {logging.getLogger().level}")
    ready.set()
    if os.environ.get("LISTENS"):
        ended.wait()
    else:
        while (word := orders.next_word(0.01)) not in ("end", GONE):
            if word is not None:
                tell(f"took {word}")
        tell(f"took {word}")
    tell("ends")
    end_at_once(7)


if __name__ == "__main__":
    main()
