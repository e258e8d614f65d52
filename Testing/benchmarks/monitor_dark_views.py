"""Which views are too dark to show cement, and is that told before any is given?

Each side of a synthetic patient under the C-arm of `monitor_scenes`, with all its errors, in several views, each with a
monitor of its own. What the CT and the reference tell is put beside the truth that the pump tells later: a monitor
without CT that calls a view too dark when the first millilitre has been given. The reference has 12 frames over a
breath, and the cement comes by tenths of a millilitre with a frame for each, which is enough for both.

Run: python Testing/benchmarks/monitor_dark_views.py [--patients N] [--first SEED] [--views NAME ...]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from monitor_scenes import BREATHING_S, FRAME_S, VIEWS, Fluoroscope, Scene, cement_attenuation, make_scene

from sacroplasty.cement.monitor import Frame, SpreadMonitor
from sacroplasty.cement.visibility import Sight, Visibility
from sacroplasty.errors import ImageError
from sacroplasty.phantom.make import make_phantom

FRAMES_BEFORE = 12
STEP_ML, LARGEST_ML = 0.1, 1.3


@dataclass(frozen=True)
class Found:
    """One view of one side.

    Attributes:
        told: what it could show, by CT and reference.
        instead: what is proposed in its place if it is dark, beside the usual views.
        dark: whether the pump tells that it is.
    """

    seed: int
    side: str
    view: str
    told: Visibility
    instead: str
    dark: bool


def judge(scene: Scene) -> list[Found]:
    """All views of a scene; one whose reference is refused for another reason is left out."""
    camera = Fluoroscope(scene)
    times = np.linspace(-BREATHING_S, 0, FRAMES_BEFORE, endpoint=False)
    before = [camera.frames(None, float(now_s)) for now_s in times]
    monitors = {}
    for view in scene.views:
        monitor = SpreadMonitor(None, scene.monitor.tip_ras, scene.monitor.settings, scene.cannula)
        try:
            monitor.set_reference(view, [frames[view] for frames in before])
        except ImageError as error:
            print(f"{scene.seed} {scene.side} {view}: {error}")
            continue
        monitors[view] = monitor
    health = pump_tells(scene, camera, monitors)
    assert scene.monitor.tip_ras is not None
    sight = Sight(scene.attenuation, scene.monitor.tip_ras, scene.monitor.settings.cement_per_mm)
    found = []
    for view, monitor in monitors.items():
        background = monitor.seen(view)[0]
        told = sight.through(background)
        others = [scene.nominal[other] for other in VIEWS if other != view]
        instead = sight.better_view(told, background.geometry, others) if told.dark else ""
        found.append(Found(scene.seed, scene.side, view, told, instead, "too dark" in health[view]))
    return found


def pump_tells(scene: Scene, camera: Fluoroscope, monitors: dict[str, SpreadMonitor]) -> dict[str, str]:
    """By view the monitor's health when the pump has told how much cement there is."""
    health = dict.fromkeys(monitors, "")
    for number in range(1, round(LARGEST_ML / STEP_ML) + 1):
        given_ml, now_s = number * STEP_ML, number * FRAME_S
        frames: dict[str, Frame] = camera.frames(cement_attenuation(scene, given_ml, np.empty((0, 3)), 0.0), now_s)
        for view, monitor in monitors.items():
            health[view] = monitor.update({view: frames[view]}, now_s, given_ml).health
    return health


def main() -> None:
    parser = argparse.ArgumentParser(description="Views that are too dark, told before and by the pump.")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--first", type=int, default=2101, help="seed of the first patient")
    parser.add_argument("--views", nargs="+", default=["outlet", "lateral", "inlet"])
    options = parser.parse_args()
    found: list[Found] = []
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            for one in judge(make_scene(phantom, seed, side, 256, options.views)):
                found.append(one)
                dark = "dark by the pump" if one.dark else "good"
                told = f"told dark, {one.instead or 'nothing'} instead" if one.told.dark else "told good"
                print(
                    f"{seed} {side:<6}{one.view:<9}{one.told.smallest_ml:7.3f} mL {one.told.share:4.0%}  "
                    f"{dark:<18}{told}",
                    flush=True,
                )
    print(f"\n{'view':<10}{'sides':>6}{'dark':>6}{'told':>6}{'good':>6}{'called dark':>13}")
    for view in options.views:
        dark, good = ([one for one in found if one.view == view and one.dark is which] for which in (True, False))
        print(
            f"{view:<10}{len(dark) + len(good):>6}{len(dark):>6}{sum(one.told.dark for one in dark):>6}{len(good):>6}"
            f"{sum(one.told.dark for one in good):>13}"
        )
    instead = [one for one in found if one.told.dark and one.instead in options.views]
    shows = {(one.seed, one.side, one.view): not one.dark for one in found}
    bright = sum(shows.get((one.seed, one.side, one.instead), False) for one in instead)
    print(f"proposed in place of a dark view and good by the pump: {bright} of {len(instead)}")


if __name__ == "__main__":
    main()
