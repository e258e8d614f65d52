"""Poses and frames over a line that loses 5 %, delays 200 ms each way and is cut: what is live, and how old it is.

As root on Linux, since the line lies between two network namespaces. The truth is the clock that both ends share.
"""

from __future__ import annotations

import numpy as np
from lossy_line import good_and_bad_times, why_not

SEEDS = (1, 2, 3)
HEADS = ("connected %", "pose live %", "oldest ms", "frame live %", "oldest ms")


def main() -> None:
    if why_not():
        print(f"not measured: {why_not()}")
        return
    for seed in SEEDS:
        story = good_and_bad_times(seed)
        print(f"\nseed {seed}\n{'meanwhile':<26}" + "".join(f"{head:>14}" for head in HEADS))
        for name, entries in story.items():
            cells = [100 * np.mean([entry["connected"] for entry in entries])]
            for what in ("pose", "frame"):
                ages_s = [entry[f"{what}_age_s"] for entry in entries if entry[f"{what}_age_s"] is not None]
                cells += [100 * len(ages_s) / len(entries), 1000 * max(ages_s, default=float("nan"))]
            print(f"{name:<26}" + "".join(f"{cell:>14.0f}" for cell in cells))
        back = story["good at last"]
        live_s = [entry["now_s"] for entry in back if entry["pose_age_s"] is not None]
        words = f"{live_s[0] - back[0]['now_s']:.2f} s" if live_s else "never"
        print(f"first live pose after the line is good again: {words}")


if __name__ == "__main__":
    main()
