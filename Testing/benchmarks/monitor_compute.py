"""What the spread monitor costs for a frame of 1024 x 1024 pixels, beside the plain subtraction of a mean picture.

Two views of one simulated injection, frame by frame at 7.5 a second from 0.2 to 1.6 mL; made beforehand, so that only
the monitor is timed. A turn takes one frame of each view that is watched, both or one; the time of a frame is its share
of it. The peer is what a C-arm shows as subtraction: the difference of logarithms, without any compensation.

Run: python Testing/benchmarks/monitor_compute.py [--seed N] [--pixels N] [--frames N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from monitor_scenes import FRAME_S, REFERENCE_FRAMES, VIEWS, Fluoroscope, cement_attenuation, make_scene

from sacroplasty.cement.monitor import Frame, SpreadMonitor
from sacroplasty.phantom.make import make_phantom

FLOW_ML_S, FIRST_ML = 0.1, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of the spread monitor for large frames.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=100)
    options = parser.parse_args()
    phantom = make_phantom(options.seed, spacing_mm=(1.2, 1.2, 2.0))
    scene = make_scene(phantom, options.seed, "left", options.pixels)
    camera = Fluoroscope(scene)
    before = [camera.frames(None, FRAME_S * (number - REFERENCE_FRAMES)) for number in range(REFERENCE_FRAMES)]
    nothing, run = np.empty((0, 3)), []
    for number in range(1, options.frames + 1):
        given = FIRST_ML + number * FLOW_ML_S * FRAME_S
        run.append((camera.frames(cement_attenuation(scene, given, nothing, 0.0), number * FRAME_S), given))
    print(f"{'ms per frame':<24}{'median':>8}{'99 %':>8}{'worst':>8}{'of the processor':>18}{'first turn':>12}")
    for views in (VIEWS, *((view,) for view in VIEWS)):
        # Another monitor of the same scene: it is made from the seed alone.
        monitor = make_scene(phantom, options.seed, "left", options.pixels).monitor
        began = time.perf_counter()
        for view in views:
            monitor.set_reference(view, [frames[view] for frames in before])
        learned_s = (time.perf_counter() - began) / len(views)
        spent, worked = timed(monitor, views, run)
        # The first turn matches pixels and voxels, once for an injection.
        _print(" + ".join(views), spent[1:], worked[1:], f"{spent[0] * len(views):>9.0f} ms")
        print(f"    a reference of {REFERENCE_FRAMES} frames: {learned_s:.1f} s for each view")
    mean = {view: np.mean([frames[view].pixels for frames in before], axis=0) for view in VIEWS}
    peer = []
    for frames, _ in run:
        began = time.perf_counter()
        for view in VIEWS:
            np.log(mean[view]) - np.log(np.maximum(frames[view].pixels, 1))
        peer.append(1000 * (time.perf_counter() - began) / len(VIEWS))
    _print("subtraction alone", peer, peer, "")


def timed(
    monitor: SpreadMonitor, views: tuple[str, ...], run: list[tuple[dict[str, Frame], float]]
) -> tuple[list[float], list[float]]:
    """Milliseconds of each turn for one of its frames: by the clock, and of the processor."""
    spent, worked = [], []
    for frames, given in run:
        some = {view: frames[view] for view in views}
        began, busy = time.perf_counter(), time.process_time()
        monitor.update(some, some[views[0]].time_s, given)
        spent.append(1000 * (time.perf_counter() - began) / len(views))
        worked.append(1000 * (time.process_time() - busy) / len(views))
    return spent, worked


def _print(name: str, spent: list[float], worked: list[float], first: str) -> None:
    print(
        f"{name:<24}{np.median(spent):>8.1f}{np.percentile(spent, 99):>8.1f}{max(spent):>8.1f}"
        f"{np.median(worked):>18.1f}{first:>12}",
        flush=True,
    )


if __name__ == "__main__":
    main()
