"""Accuracy and speed of the X-ray projector.

Accuracy against closed-form chords of a ball (partial volume at its rim) and a box; speed on volumes of noise.
The peer, measured in the same run, samples every ray each half voxel with scipy's trilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.ndimage import map_coordinates

from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.project import line_integrals

SEED = 7
VIEWS = {"along an axis": [0, 1, 0], "45 deg": [0, 1, -1], "diagonal": [1, 1, 1]}


def main() -> None:
    accuracy = Table(title="error in % of the largest line integral (pixels above half of it)")
    for heading in ("object", "view", "mean", "99th percentile", "worst", "peer 99th"):
        accuracy.add_column(heading)
    for name, make in (("ball 60 mm, 1 mm voxels", _ball), ("box 50x40x45 mm, oblique", _box)):
        volume, chords = make()
        for view, direction in VIEWS.items():
            geometry = _pose(direction, 128)
            truth = chords(geometry)
            deep = truth > truth.max() / 2
            error, peer = (
                100 * np.abs(image - truth)[deep] / truth.max()
                for image in (line_integrals(volume, geometry), ray_march(volume, geometry))
            )
            figures = (error.mean(), np.percentile(error, 99), error.max(), np.percentile(peer, 99))
            accuracy.add_row(name, view, *(f"{figure:.2f}" for figure in figures))
    speed = Table(title="time in ms, median of 5")
    for heading in ("volume", "pixels", "view", "this", "peer", "factor"):
        speed.add_column(heading)
    rng = np.random.default_rng(SEED)
    for count, pixels in ((60, 256), (120, 256), (256, 200), (160, 96)):
        # Each fills what a pelvis, or the surroundings of a tip for the smallest, takes of the beam.
        spacing = 1.0 if count == 60 else 300 / count
        IJKToRAS = rigid(spacing * np.eye(3), np.full(3, -spacing * (count - 1) / 2))
        volume = Volume(rng.uniform(0.01, 0.03, (count,) * 3).astype(np.float32), IJKToRAS)
        for view, direction in list(VIEWS.items())[:2]:
            geometry = _pose(direction, pixels)
            own = _median_ms(lambda volume=volume, geometry=geometry: line_integrals(volume, geometry), 5)
            peer_ms = _median_ms(lambda volume=volume, geometry=geometry: ray_march(volume, geometry), 1)
            cells = (f"{count}^3", f"{pixels}^2", view, f"{own:.1f}", f"{peer_ms:.0f}", f"{peer_ms / own:.0f}")
            speed.add_row(*cells)
    console = Console()
    console.print(accuracy)
    console.print(speed)


def ray_march(volume: Volume, geometry: XrayGeometry) -> np.ndarray:
    """The peer: samples at equal distances along each ray, between the spheres that hold the volume."""
    step = float(volume.spacing_mm.min()) / 2
    source, directions = _rays(geometry)
    center = volume.ras_of([(np.array(volume.voxels.shape) - 1) / 2])[0]
    reach = float(np.linalg.norm(np.array(volume.voxels.shape[::-1]) * volume.spacing_mm)) / 2
    middle = float(np.linalg.norm(center - source))
    image = np.zeros(directions.shape[:2])
    for distance in np.arange(middle - reach, middle + reach, step):
        index = volume.kji_of(source + distance * directions)
        image += map_coordinates(volume.voxels, np.moveaxis(index, -1, 0), order=1, mode="grid-constant", cval=0.0)
    return image * step


def _pose(direction: list[float], columns: int) -> XrayGeometry:
    return CArm().pose([0, 0, 0], direction, [0, 0, 1]).resampled(columns)


def _rays(geometry: XrayGeometry) -> tuple[np.ndarray, np.ndarray]:
    columns, rows = geometry.detector_pixels
    lines = (
        geometry.pixel_ras(np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)) - geometry.source_ras
    )
    return geometry.source_ras, lines / np.linalg.norm(lines, axis=-1, keepdims=True)


def _ball() -> tuple[Volume, Callable[[XrayGeometry], np.ndarray]]:
    axes, counts = rotation_about([1, 2, 3], 25), np.full(3, 64)
    IJKToRAS = rigid(axes, -axes @ ((counts - 1) / 2))
    fine = np.stack(np.meshgrid(*[(np.arange(256) + 0.5) / 4 - 0.5] * 3, indexing="ij"), axis=-1, dtype=np.float32)
    inside = np.linalg.norm(transform_points(IJKToRAS, fine[..., ::-1]), axis=-1) <= 30
    share = inside.reshape(64, 4, 64, 4, 64, 4).mean(axis=(1, 3, 5))

    def chords(geometry: XrayGeometry) -> np.ndarray:
        source, directions = _rays(geometry)
        along = directions @ -source
        return 0.02 * 2 * np.sqrt(np.maximum(30**2 - source @ source + along**2, 0))

    return Volume((0.02 * share).astype(np.float32), IJKToRAS), chords


def _box() -> tuple[Volume, Callable[[XrayGeometry], np.ndarray]]:
    axes, counts = rotation_about([3, 1, 2], 35) @ np.diag([1.0, 1.0, 1.5]), np.array([50, 40, 30])
    IJKToRAS = rigid(axes, -axes @ ((counts - 1) / 2))
    volume = Volume(np.full(counts[::-1], 0.03, np.float32), IJKToRAS)

    def chords(geometry: XrayGeometry) -> np.ndarray:
        source, directions = _rays(geometry)
        start, lines = transform_points(volume.RASToIJK, source), directions @ volume.RASToIJK[:3, :3].T
        one, other = (-0.5 - start) / lines, (counts - 0.5 - start) / lines
        return 0.03 * np.maximum(np.maximum(one, other).min(axis=-1) - np.minimum(one, other).max(axis=-1), 0)

    return volume, chords


def _median_ms(run: Callable[[], object], times: int) -> float:
    durations = []
    for _ in range(times):
        start = perf_counter()
        run()
        durations.append(1000 * (perf_counter() - start))
    return float(np.median(durations))


if __name__ == "__main__":
    main()
