"""What the spread monitor costs for a frame of 1024 x 1024 pixels, beside the plain subtraction of a mean picture.

Two views of one simulated injection, frame by frame at 7.5 a second from 0.2 to 1.6 mL; made beforehand, so that only
the monitor is timed. A turn takes one frame of each view; the time of a frame is half of it. The peer is what a C-arm
shows as subtraction: the difference of logarithms, without any compensation.

Run: python Testing/benchmarks/monitor_compute.py [--seed N] [--pixels N] [--frames N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from monitor_scenes import FRAME_S, REFERENCE_FRAMES, VIEWS, Fluoroscope, cement_attenuation, make_scene

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
    camera, monitor = Fluoroscope(scene), scene.monitor
    before = [camera.frames(None, FRAME_S * (number - REFERENCE_FRAMES)) for number in range(REFERENCE_FRAMES)]
    began = time.perf_counter()
    for view in VIEWS:
        monitor.set_reference(view, [frames[view] for frames in before])
    print(f"two references of {REFERENCE_FRAMES} frames: {time.perf_counter() - began:.1f} s")
    mean = {view: np.mean([frames[view].pixels for frames in before], axis=0) for view in VIEWS}
    nothing = np.empty((0, 3))
    spent, peer = [], []
    for number in range(1, options.frames + 1):
        given = FIRST_ML + number * FLOW_ML_S * FRAME_S
        frames = camera.frames(cement_attenuation(scene, given, nothing, 0.0), number * FRAME_S)
        began = time.perf_counter()
        monitor.update(frames, number * FRAME_S, given)
        spent.append(1000 * (time.perf_counter() - began) / len(VIEWS))
        began = time.perf_counter()
        for view in VIEWS:
            np.log(mean[view]) - np.log(np.maximum(frames[view].pixels, 1))
        peer.append(1000 * (time.perf_counter() - began) / len(VIEWS))
    print(f"{'ms per frame':<24}{'median':>8}{'99 %':>8}{'worst':>8}")
    # The first turn matches pixels and voxels, once for an injection.
    for name, values in (("this", spent[1:]), ("subtraction alone", peer[1:])):
        print(f"{name:<24}{np.median(values):>8.1f}{np.percentile(values, 99):>8.1f}{max(values):>8.1f}")
    print(f"first turn: {spent[0] * len(VIEWS):.0f} ms")


if __name__ == "__main__":
    main()
