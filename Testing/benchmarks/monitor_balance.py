"""Cement given against cement seen: how much is lost unseen before the monitor warns, and does it warn for nothing?

Alae of synthetic patients under the C-arm of `monitor_scenes`, with all its errors; 0.1 mL and a frame of each view
every second. In a sound injection all cement goes into the ala, up to 4 mL. In the other one half of it vanishes from
1.5 mL on, as through a vein that no view shows.

Run: python Testing/benchmarks/monitor_balance.py [--patients N] [--first SEED]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from monitor_scenes import Fluoroscope, cement_attenuation, learn_views, make_scene

from sacroplasty.errors import SacroplastyError
from sacroplasty.phantom.make import Phantom, make_phantom

STEP_ML, PERIOD_S, LARGEST_ML, LOST_FROM_ML, LOST_SHARE = 0.1, 1.0, 4.0, 1.5, 0.5


def inject(phantom: Phantom, seed: int, side: str, loses: bool) -> str:
    """One injection, in words."""
    scene = make_scene(phantom, seed, side, 256)
    camera, monitor = Fluoroscope(scene), scene.monitor
    monitor.settings = replace(monitor.settings, frame_period_s=PERIOD_S)
    learn_views(scene, camera)
    lost_ml, largest_ml = 0.0, -np.inf
    for number in range(1, round(LARGEST_ML / STEP_ML) + 1):
        given_ml, now_s = number * STEP_ML, number * PERIOD_S
        lost_ml += LOST_SHARE * STEP_ML * (loses and given_ml > LOST_FROM_ML)
        cement = cement_attenuation(scene, given_ml - lost_ml, np.empty((0, 3)), 0.0)
        reading = monitor.update(camera.frames(cement, now_s), now_s, given_ml)
        if not reading.healthy:
            return f"blind at {given_ml:.1f} mL: {reading.health}"
        assert reading.measures is not None
        largest_ml = max(largest_ml, reading.measures.missing_ml - lost_ml)
        if "missing" in reading.warnings:
            return f"warned with {lost_ml:.2f} mL lost, at {given_ml:.1f} mL"
    return f"no warning, {lost_ml:.2f} mL lost; at most {largest_ml:.2f} mL more seemed missing"


def main() -> None:
    parser = argparse.ArgumentParser(description="Cement given against cement seen.")
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--first", type=int, default=2201, help="seed of the first patient")
    options = parser.parse_args()
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            for loses in (False, True):
                try:
                    found = inject(phantom, seed, side, loses)
                except SacroplastyError as error:
                    found = f"not done: {error}"
                print(f"{seed} {side:<6}{'half is lost' if loses else 'sound':<14}{found}", flush=True)


if __name__ == "__main__":
    main()
