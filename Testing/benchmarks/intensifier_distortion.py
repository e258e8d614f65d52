"""What calibration with a bead plate leaves of an image intensifier's distortion, and what that does to the cement.

The imaging chain distorts (`xray.imaging_chain`, pincushion and S-shape in closed form); the calibration knows only one
noisy picture of a plate with beads of 2 mm every 10 mm, turned and shifted, and a polynomial. Truth is the chain's own
formula, within nine tenths of the field's radius. Then 2 mL of cement as a sphere in an uneven slab, at 8 places up to
70 mm (at the detector 100 mm) off the middle: volume by the spread monitor in one view, and where its middle is seen.

Run: python Testing/benchmarks/intensifier_distortion.py [--places N]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bead_plate import bead_plate
from cement_scene import sphere_line_integrals
from sacroplasty.cement.measures import SpreadMeasures
from sacroplasty.cement.monitor import Frame, SpreadMonitor
from sacroplasty.xray.bead_grid import calibrate_distortion
from sacroplasty.xray.distortion import Distortion, Undistorter
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.imaging_chain import ImagingChain, expose_frame, seen_pixels

DISTORTIONS = ((0.0, 0.0), (0.03, 2.0), (0.06, 5.0), (0.1, 10.0))
FIELD_SHARE, WITHIN, LARGEST_MM, CEMENT_ML = 0.95, 0.9, 70.0, 2.0
FRAMES = 5


def pose(pixels: int) -> XrayGeometry:
    return CArm().pose([0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]).resampled(pixels)


def intensifier(geometry: XrayGeometry, pincushion: float, s_distortion_deg: float) -> ImagingChain:
    width_mm = geometry.detector_pixels[0] * geometry.pixel_spacing_mm[0]
    return ImagingChain(
        pincushion=pincushion,
        s_distortion_deg=s_distortion_deg,
        field_diameter_mm=FIELD_SHARE * width_mm,
        photons_per_pixel=400.0,
        blur_mm=0.3,
    )


def calibrated(geometry: XrayGeometry, chain: ImagingChain) -> Distortion:
    return calibrate_distortion(expose_frame(bead_plate(geometry), geometry, chain, np.random.default_rng(1)).pixels)


def rest(geometry: XrayGeometry, chain: ImagingChain, distortion: Distortion) -> tuple[NDArray, NDArray]:
    """Distances in pixels of what is seen from where it belongs, before and after, within the field."""
    columns, rows = geometry.detector_pixels
    middle = (np.array([columns, rows]) - 1) / 2
    uv = np.stack(np.meshgrid(np.arange(0, columns, 8.0), np.arange(0, rows, 8.0)), axis=-1).reshape(-1, 2)
    radius = WITHIN * FIELD_SHARE * columns / 2
    uv = uv[np.linalg.norm(uv - middle, axis=1) <= radius]
    seen = seen_pixels(uv, geometry, chain)
    shown = np.linalg.norm(seen - middle, axis=1) <= radius
    uv, seen = uv[shown], seen[shown]
    return np.linalg.norm(seen - uv, axis=1), np.linalg.norm(seen - distortion.seen(uv), axis=1)


def cement(geometry: XrayGeometry, chain: ImagingChain, correct: Undistorter | None, places: int) -> NDArray:
    """(places, 2) volume error as a share, and how far from its place the cement's middle is seen, mm."""
    rng = np.random.default_rng(5)
    columns, rows = geometry.detector_pixels
    slab = 3.0 + gaussian_filter(rng.normal(size=(rows, columns)), 3) * 2.0
    found = []
    for _ in range(places):
        turn, off_mm = rng.uniform(0, 2 * np.pi), LARGEST_MM * np.sqrt(rng.uniform())
        center = np.array([off_mm * np.cos(turn), 0.0, off_mm * np.sin(turn)])

        def shot(extra: NDArray | float, now_s: float) -> Frame:
            pixels = expose_frame(slab + extra, geometry, replace(chain, photons_per_pixel=2000.0), rng).pixels
            return Frame(pixels if correct is None else correct(pixels), now_s, geometry)

        monitor = SpreadMonitor(tip_ras=center)
        monitor.set_reference("ap", [shot(0.0, 0.2 * number - 2.0) for number in range(FRAMES)])
        dense = sphere_line_integrals(geometry, center, CEMENT_ML)
        reading = monitor.update({"ap": shot(dense, 0.0)}, 0.0)
        assert isinstance(reading.measures, SpreadMeasures), reading.health
        background, seen = monitor.seen("ap")
        assert seen is not None
        weight = np.where(seen.detected, seen.attenuation, 0.0)
        v, u = np.indices(weight.shape)
        at = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
        beside = np.linalg.norm((at - background.geometry.project(center)) * background.geometry.pixel_spacing_mm)
        found.append((reading.volume_ml / CEMENT_ML - 1, beside / 1.56))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="An image intensifier's distortion and its calibration.")
    parser.add_argument("--places", type=int, default=8)
    options = parser.parse_args()
    print(
        f"{'pixels':>6}{'pincushion':>11}{'S':>6}{'beads':>7}{'before, rms (worst)':>22}{'after':>18}{'ms/frame':>10}"
    )
    for pixels in (512, 1024):
        geometry = pose(pixels)
        for pincushion, s_distortion_deg in DISTORTIONS:
            chain = intensifier(geometry, pincushion, s_distortion_deg)
            distortion = calibrated(geometry, chain)
            undistorter, frame = Undistorter(distortion), np.zeros((pixels, pixels), np.uint16)
            undistorter(frame)
            times = []
            for _ in range(15):
                begin_s = time.perf_counter()
                undistorter(frame)
                times.append(1000 * (time.perf_counter() - begin_s))
            before, after = (
                f"{np.sqrt(np.mean(off**2)):.3f} ({off.max():.2f}) px" for off in rest(geometry, chain, distortion)
            )
            print(
                f"{pixels:>6}{pincushion:>11.2f}{s_distortion_deg:>4.0f} °{distortion.beads:>7}{before:>22}{after:>18}"
                f"{np.median(times):>10.1f}",
                flush=True,
            )
    print(f"\n{'pincushion':>10}{'S':>6}{'corrected':>11}{'volume, median (worst)':>25}{'place, median (worst)':>24}")
    geometry = pose(512)
    for pincushion, s_distortion_deg in DISTORTIONS:
        chain = intensifier(geometry, pincushion, s_distortion_deg)
        for name, correct in (("no", None), ("yes", Undistorter(calibrated(geometry, chain)))):
            found = np.abs(cement(geometry, chain, correct, options.places))
            print(
                f"{pincushion:>10.2f}{s_distortion_deg:>4.0f} °{name:>11}"
                f"{100 * np.median(found[:, 0]):>13.1f} ({100 * found[:, 0].max():>4.1f}) %"
                f"{np.median(found[:, 1]):>12.2f} ({found[:, 1].max():.2f}) mm",
                flush=True,
            )


if __name__ == "__main__":
    main()
