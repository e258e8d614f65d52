"""Whole rehearsals on the sample patient: what the procedure believed against what truly happened.

Truth is the simulators' own account, read after each rehearsal. Usage: rehearsals.py [SEEDS] [SPEED]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENARIOS = ("normal", "leak")


def main(seeds: int = 3, speed: float = 6.0) -> None:
    """Rehearse each scenario with seeds 1 to `seeds` and print one row for each side that was treated."""
    print(f"sample patient, 3 mm, speed {speed:g}, seeds 1 to {seeds}\n")
    print(
        "| scenario | seed | outcome | side | tip error true / expected mm | pump | monitor | true mL | leaked mL | s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    tip_errors: list[float] = []
    outcomes: dict[str, list[str]] = {scenario: [] for scenario in SCENARIOS}
    leaked: list[float] = []
    for scenario in SCENARIOS:
        for seed in range(1, seeds + 1):
            outcome, rows, seconds = rehearse(scenario, seed, speed)
            outcomes[scenario].append(outcome)
            for row in rows:
                tip_errors.append(row["tip_error_mm"])
                if scenario == "leak" and row["leaked_ml"] > 0:
                    leaked.append(row["leaked_ml"])
                volumes = (row[name] for name in ("given_ml", "seen_ml", "delivered_ml", "leaked_ml"))
                cells = [scenario, str(seed), outcome, row["side"]]
                cells.append(f"{row['tip_error_mm']:.2f} / {row['expected_mm']:.2f}")
                cells += [*(f"{volume:.2f}" for volume in volumes), f"{seconds:.0f}", row["end"]]
                print(f"| {' | '.join(cells)} |", flush=True)
    print()
    for scenario, found in outcomes.items():
        counts = ", ".join(f"{found.count(outcome)} {outcome}" for outcome in sorted(set(found)))
        print(f"{scenario}: {counts} of {len(found)}")
    if tip_errors:
        print(f"tip error: median {statistics.median(tip_errors):.2f} mm, worst {max(tip_errors):.2f} mm")
    if leaked:
        print(f"leaked at the stop: median {statistics.median(leaked):.2f} mL, worst {max(leaked):.2f} mL")


def rehearse(scenario: str, seed: int, speed: float) -> tuple[str, list[dict], float]:
    """Outcome, one row for each treated side, and how long it took in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "sacroplasty.cli", "rehearse", "--json", "--out", str(out)]
        command += ["--scenario", scenario, "--seed", str(seed), "--speed", str(speed)]
        began_s = time.monotonic()
        finished = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - began_s
        if not (out / "truth.json").exists():
            return f"failed ({finished.stderr.strip().splitlines()[-1]})", [], seconds
        outcome = json.loads(finished.stdout)["outcome"]
        truth = json.loads((out / "truth.json").read_text())["sides"]
        journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    placed = {entry["side"]: entry for entry in journal if entry["event"] == "trocar_placed"}
    records = {entry["side"]: entry for entry in journal if entry["event"] == "injection_record"}
    rows = [
        {
            "side": side,
            "expected_mm": placed[side]["expected_error_mm"],
            "given_ml": record["given_ml"],
            # The first reason tells a leak from a device that went stale on a busy machine.
            "end": record["stopped"].split(";")[0] or "finished",
            "seen_ml": record["seen_ml"] if record["seen_ml"] is not None else float("nan"),
            **{key: truth[side][key] for key in ("tip_error_mm", "delivered_ml", "leaked_ml")},
        }
        for side, record in records.items()
    ]
    return outcome, rows, seconds


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
