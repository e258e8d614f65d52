"""Runs the benchmarks one after the other and prints their tables.

Run: python Testing/benchmarks/run.py [--only NAME] [--quick]
Each benchmark is a script beside this one. It runs in a process of its own, so that none warms up the next.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: Arguments that make a long benchmark short. The figures in docs/validation.md come from the full runs.
QUICK = {
    "anatomy_on_phantoms": ["1"],
    "bone_segmentation": ["--quick"],
    "cannula_standard": ["--patients", "1"],
    "cement_estimate": ["--patients", "1"],
    "intensifier_distortion": ["--places", "2"],
    "monitor_bad_input": ["--patients", "1"],
    "monitor_balance": ["--patients", "1"],
    "monitor_closed_loop": ["--patients", "1"],
    "monitor_study": ["--patients", "1"],
    "cement_physics": ["3"],
    "device_defects": ["half-open", "run-after-stop"],
    "fracture_suggestions": ["200", "1"],
    "guidance_latency": ["3"],
    "injection_faults": ["20", "--kills", "3"],
    "landmarks_on_phantoms": ["8"],
    "link_comparison": ["--quick"],
    "link_soak": ["20"],
    "bone_surface": ["1"],
    "navigation": ["20"],
    "navigation_chain": ["20"],
    "navigation_error_model": ["100"],
    "navigation_surface": ["1", "--draws", "1"],
    "seed_correction": ["1"],
    "mri_registration": ["1"],
    "planning_against_reference": ["10"],
    "planning_on_phantoms": ["1"],
    "planning_on_real_sacra": ["1"],
    "stop_latency": ["50"],
    "wire_fuzz": ["10000"],
    "view_angles": ["--seeds", "2001", "2003"],
}

#: Take minutes each and have no short form.
LONG = {"bad_line", "rehearsals"}


#: Parts that benchmarks share.
PARTS = {
    "ct_disturbances",
    "ct_pictures",
    "lossy_line",
    "monitor_scenes",
    "nanodrr_peer",
    "openigtlink_programs",
    "other_renderer",
    "pelvis_labels",
    "planning_reference",
    "planning_truth",
    "projector_peers",
    "pseudo_ct",
    "run",
    "segmentation_metrics",
    "true_bones",
}


def benchmarks() -> list[str]:
    """Names of all benchmarks."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in PARTS)


def main() -> int:
    """Run what was asked for; returns 1 when one of them failed."""
    parser = argparse.ArgumentParser(description="Run the benchmarks and print their tables.")
    parser.add_argument("--only", action="append", choices=benchmarks(), help="run this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer cases, and without the longest benchmarks")
    asked = parser.parse_args()
    names = asked.only or [name for name in benchmarks() if not (asked.quick and name in LONG)]
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        arguments = QUICK.get(name, []) if asked.quick else []
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments]).returncode:
            failed.append(name)
        print(f"-- {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
