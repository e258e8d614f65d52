"""How fast and how exact outlines over an X-ray are, beside masks sent through the projector, as was done before.

Run: python Testing/benchmarks/overlay.py [seed]     (default 2; about a minute)
Accuracy: the ray to each point of a ball's outline should touch the ball. Time: canal, eight foramina, alae and joints
of a synthetic patient of 1.25 mm in one outlet picture of 512 pixels, median of repeats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.geometry import rigid
from sacroplasty.image import Volume
from sacroplasty.phantom.make import make_phantom
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.overlay import OVERLAID, anatomy_surfaces, outline, outlines, surface_of
from sacroplasty.xray.project import line_integrals
from sacroplasty.xray.sight_lines import joint_of_sacrum

_REPEATS = 9


def touch_errors(radius_mm: float, spacing_mm: float) -> np.ndarray:
    """Distance of the rays to a ball's outline from its center, minus its radius [mm], over poses and places."""
    errors = []
    rng = np.random.default_rng(5)
    for angles in ((0, 0), (15, -45), (40, 10), (90, 0)):
        center = rng.uniform(-1, 1, 3) * spacing_mm
        count = int(2 * radius_mm / spacing_mm) + 7
        grid = Volume(
            np.zeros([count] * 3, np.uint8), rigid(np.eye(3) * spacing_mm, -np.ones(3) * spacing_mm * (count - 1) / 2)
        )
        off = grid.ras_of(np.argwhere(np.ones(grid.voxels.shape))) - center
        ball = grid.like((np.linalg.norm(off, axis=1) <= radius_mm).reshape(grid.voxels.shape))
        geometry = CArm().at_positioner_angles([12.0, -5.0, 8.0], *angles)
        rays = geometry.pixel_ras(np.concatenate(outline(surface_of("ball", ball), geometry).polylines))
        rays = rays - geometry.source_ras
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        errors.append(np.linalg.norm(np.cross(rays, center - geometry.source_ras), axis=1) - radius_mm)
    return np.concatenate(errors)


def milliseconds(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return 1000 * float(np.median(times))


def main(seed: int) -> None:
    print("ball, mm  voxels, mm  mean error  95 %  worst, mm at the patient")
    for radius, spacing in ((4.0, 1.0), (12.0, 1.0), (12.0, 2.0), (30.0, 1.0)):
        error = touch_errors(radius, spacing)
        size = np.abs(error)
        print(f"{radius:8g} {spacing:11g} {error.mean():11.2f} {np.percentile(size, 95):5.2f} {size.max():6.2f}")
    phantom = make_phantom(seed, spacing_mm=(1.25, 1.25, 1.25))
    anatomy = segment_from_labels(phantom.ct, phantom.bones)
    geometry = CArm().view("outlet", anatomy.SacrumToRAS).resampled(512)
    masks = {}
    for name in OVERLAID:
        joint = name.removeprefix("si_joint_")
        mask = joint_of_sacrum(anatomy, joint) if name.startswith("si_joint") else anatomy.region(name)
        masks[name] = anatomy.regions.like(mask.astype(np.float32))
    surfaces = anatomy_surfaces(anatomy)
    own = milliseconds(lambda: outlines(surfaces, geometry))
    before = milliseconds(lambda: [line_integrals(mask, geometry) > 0.5 for mask in masks.values()])
    made = milliseconds(lambda: anatomy_surfaces(anatomy))
    print(
        f"{len(surfaces)} structures: outlines {own:.0f} ms, masks through the projector {before:.0f} ms "
        f"({before / own:.0f}x)"
    )
    print(
        f"once for a patient: surfaces {made:.0f} ms, {sum(len(item.points_ras) for item in surfaces.values())} points"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
