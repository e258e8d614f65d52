"""The cement in three dimensions from simulated views, against where it truly is.

Each ala is another synthetic patient's under the C-arm of `monitor_scenes`, with all its errors of pose and tip, noise,
scatter and breathing. The bone has ways out (`simulation.exits`), so that some of the cement lies beside it. Cement is
given to 1, 2 and 4 mL; then it is estimated from both views and from each alone, with the pump's volume. A view that
the pump could not calibrate, as it is too dark or something leaked meanwhile, is left out; the monitor is blind then.

Dice is of voxels of 1.5 mm that are filled for the most part; the front is the surface of these, and its error the mean
distance between both surfaces, either way; the center is that of all cement.

Run: python Testing/benchmarks/cement_estimate.py [--patients N] [--first SEED] [--pixels N]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from monitor_scenes import FRAME_S, REFERENCE_FRAMES, VIEWS, Fluoroscope, Scene, make_scene
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from sacroplasty.cement.estimate import FILLED_SHARE, CementEstimate, CementEstimator
from sacroplasty.cement.grid import sample
from sacroplasty.errors import ImageError, PlanError
from sacroplasty.image import Volume
from sacroplasty.phantom.make import make_phantom
from sacroplasty.simulation.exits import ExitModel, draw_leaky_bone
from sacroplasty.xray.project import CEMENT_PER_MM

#: The first ones calibrate the views.
GIVEN_ML = (0.3, 0.5, 0.7, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0)
JUDGED_ML = (1.0, 2.0, 4.0)
CHOICES = (VIEWS, *((view,) for view in VIEWS))


@dataclass
class Figures:
    """Of one estimate: relative error of the volume, distances in mm, time in ms."""

    views: tuple[str, ...]
    given_ml: float
    dice: float
    volume_error: float
    center_mm: float
    front_mm: float
    time_ms: float


def judged(estimate: CementEstimate, true: Volume, given_ml: float, views: tuple[str, ...], time_ms: float) -> Figures:
    """Compare an estimate with the true share of cement in each voxel of its grid."""
    filled = true.voxels > FILLED_SHARE
    both = 2 * np.count_nonzero(filled & estimate.mask) / (np.count_nonzero(filled) + np.count_nonzero(estimate.mask))
    kji = np.argwhere(true.voxels > 0)
    center = np.average(true.ras_of(kji), axis=0, weights=true.voxels[tuple(kji.T)])
    return Figures(
        views,
        given_ml,
        both,
        estimate.volume_ml / given_ml - 1,
        float(np.linalg.norm(estimate.center_ras - center)),
        surface_distance_mm(true, filled, estimate.mask),
        time_ms,
    )


def surface_distance_mm(grid: Volume, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Mean distance between the surface voxels of two masks, both ways."""
    first, second = (grid.ras_of(np.argwhere(mask & ~binary_erosion(mask))) for mask in (one, other))
    ways = [cKDTree(first).query(second)[0], cKDTree(second).query(first)[0]]
    return float(np.concatenate(ways).mean())


def estimates_of(scene: Scene, seed: int) -> list[Figures]:
    """All estimates of one ala."""
    rng = np.random.default_rng([seed, 12, scene.side == "left"])
    filling = draw_leaky_bone(scene.phantom.ct, scene.anatomy, scene.tip, ExitModel(), rng).filling
    camera, monitor = Fluoroscope(scene), scene.monitor
    before = [camera.frames(None, FRAME_S * (number - REFERENCE_FRAMES)) for number in range(REFERENCE_FRAMES)]
    for view in VIEWS:
        monitor.set_reference(view, [frames[view] for frames in before])
    assert monitor.zones is not None and monitor.tip_ras is not None
    estimator, found = None, []
    for number, given_ml in enumerate(GIVEN_ML, start=1):
        cement = filling.at(given_ml)
        attenuation = cement.like(cement.voxels * np.float32(CEMENT_PER_MM))
        reading = monitor.update(camera.frames(attenuation, number * FRAME_S), number * FRAME_S, given_ml)
        if given_ml not in JUDGED_ML:
            continue
        shadows = monitor.shadows()
        if not reading.healthy:
            print(f"    {seed} {scene.side} at {given_ml} mL: the monitor is blind, {reading.health}", flush=True)
        if estimator is None:
            poses = {view: monitor.seen(view)[0].geometry for view in VIEWS}
            estimator = CementEstimator(monitor.zones, monitor.tip_ras, poses)
        true = monitor.zones.labels.like(sample(cement, monitor.zones.labels))
        for views in CHOICES:
            if not set(views) <= set(shadows):
                continue
            began = time.process_time()
            estimate = estimator.estimate({view: shadows[view] for view in views}, given_ml)
            time_ms = 1000 * (time.process_time() - began)
            found.append(judged(estimate, true, given_ml, views, time_ms))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--first", type=int, default=2200, help="seed of the first patient")
    parser.add_argument("--pixels", type=int, default=256)
    options = parser.parse_args()
    found: list[Figures] = []
    alae = 0
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            try:
                found += estimates_of(make_scene(phantom, seed, side, options.pixels), seed)
            except (ImageError, PlanError) as error:
                print(f"seed {seed} {side}: {error}")
                continue
            alae += 1
    print(f"{alae} alae; median (worst of 95 %)")
    print(f"{'views':<18}{'mL':>5}{'Dice':>16}{'volume':>18}{'center, mm':>14}{'front, mm':>14}{'ms':>6}{'alae':>6}")
    for views in CHOICES:
        for given_ml in JUDGED_ML:
            chosen = [one for one in found if one.views == views and one.given_ml == given_ml]
            if not chosen:
                continue
            dice, volume = [one.dice for one in chosen], np.abs([one.volume_error for one in chosen])
            center, front = [one.center_mm for one in chosen], [one.front_mm for one in chosen]
            print(
                f"{' + '.join(views):<18}{given_ml:>5.1f}"
                f"{np.median(dice):>8.3f} ({np.percentile(dice, 5):.3f})"
                f"{np.median(volume):>9.1%} ({np.percentile(volume, 95):.1%})"
                f"{np.median(center):>7.2f} ({np.percentile(center, 95):.2f})"
                f"{np.median(front):>7.2f} ({np.percentile(front, 95):.2f})"
                f"{np.median([one.time_ms for one in chosen]):>6.0f}{len(chosen):>6}"
            )


if __name__ == "__main__":
    main()
