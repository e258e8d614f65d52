"""Accuracy and speed of the X-ray projector, beside its peers in the same run.

Run: python Testing/benchmarks/projector.py [GROUP ...]

Groups: `accuracy` (closed-form chords of balls and boxes, on and off the grid), `ct` (the sample CT against plastimatch
exact), `points`, `speed`, `growth`, `parts` (batches, single pixels, small objects, first call). All by default.
Peers that are not installed are left out, saying so (see `projector_peers.py`).

Times: the machine is shared, so each is the best of several on the clock, and the sum over all processors beside it,
which other work does not lengthen much.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np
from projector_peers import Rendered, nanodrr, plastimatch, ray_march, rays
from rich.console import Console
from rich.table import Table
from scipy.ndimage import map_coordinates

from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.xray import project, projectable
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.project import (
    ProjectableVolume,
    attenuation_from_hu,
    line_integrals,
    line_integrals_of_poses,
    pixel_line_integrals,
)
from sacroplasty.xray.threads import thread_count

SEED = 7
VIEWS = {"along an axis": [0, 1, 0], "45 deg": [0, 1, -1], "diagonal": [1, 1, 1]}
CONSOLE = Console(width=140)


def main() -> None:
    groups = {
        "accuracy": _accuracy,
        "ct": _against_plastimatch,
        "points": _points,
        "speed": _speed,
        "growth": _growth,
        "parts": _parts,
    }
    asked = sys.argv[1:] or list(groups)
    for name in asked:
        groups[name]()


def _accuracy() -> None:
    table = _table(
        "error in % of the largest line integral (pixels above half of it)",
        *("object", "view", "mean", "99th percentile", "worst", "numpy, worst", "ray march, worst"),
    )
    objects: dict[str, tuple[Volume, Callable[[XrayGeometry], np.ndarray]]] = {
        "ball 60 mm, 1 mm voxels": _ball(60, 1.0),
        "box 50x40x45 mm, 1 mm voxels": _box((50, 40, 30), (1.0, 1.0, 1.5)),
        "ball 180 mm, 1 mm voxels": _ball(180, 1.0),
        "box 150x120x135 mm, 1 mm voxels": _box((150, 120, 90), (1.0, 1.0, 1.5)),
    }
    for name, (volume, chords) in objects.items():
        for view, direction in VIEWS.items():
            geometry = _pose(direction, 128)
            truth = chords(geometry)
            deep = truth > truth.max() / 2
            images = [line_integrals(volume, geometry), _in_numpy(volume, geometry), ray_march(volume, geometry).image]
            error, in_numpy, marched = (100 * np.abs(image - truth)[deep] / truth.max() for image in images)
            figures = error.mean(), np.percentile(error, 99), error.max(), in_numpy.max(), marched.max()
            table.add_row(name, view, *(f"{figure:.2f}" for figure in figures))
    CONSOLE.print(table)


def _against_plastimatch() -> None:
    from sacroplasty.image import read_ct
    from sacroplasty.sample import fetch_sample
    from sacroplasty.xray.views import frame_without_anatomy

    ct = read_ct(fetch_sample().ct)
    native = Volume(attenuation_from_hu(ct.voxels), ct.IJKToRAS)
    table = _table(
        "sample CT against plastimatch exact: difference in % of the largest line integral",
        *("voxels", "view", "mean", "99th percentile", "worst", "sum over all pixels, %"),
    )
    arm = CArm()
    frame = frame_without_anatomy(ct)
    # plastimatch takes voxels as blocks, this projector interpolates between their centres; the finer the voxels, the
    # less that differs.
    for name, volume in (("3 mm, as they are", native), ("1 mm, interpolated linearly", _finer(native, 3))):
        for view in ("ap", "outlet", "lateral", "oblique-left"):
            geometry = arm.view(view, frame).resampled(256)
            peer = plastimatch(volume, geometry, arm.source_to_isocenter_mm)
            if peer is None:
                CONSOLE.print("plastimatch is not installed (Debian package plastimatch): no comparison on the CT")
                return
            own = line_integrals(volume, geometry)
            difference = 100 * np.abs(own - peer.image) / peer.image.max()
            figures = difference.mean(), np.percentile(difference, 99), difference.max()
            apart = 100 * (own.sum() / peer.image.sum() - 1)
            table.add_row(name, view, *(f"{figure:.2f}" for figure in figures), f"{apart:.3f}")
    CONSOLE.print(table)


def _finer(volume: Volume, factor: int) -> Volume:
    """The volume between the centres of its first and last voxels, interpolated linearly."""
    axes = [np.arange((count - 1) * factor + 1) / factor for count in volume.voxels.shape]
    voxels = map_coordinates(volume.voxels, np.meshgrid(*axes, indexing="ij"), order=1)
    IJKToRAS = volume.IJKToRAS.copy()
    IJKToRAS[:3, :3] /= factor
    return Volume(voxels, IJKToRAS)


def _points() -> None:
    rng = np.random.default_rng(SEED)
    worst = 0.0
    for _ in range(1000):
        geometry = CArm().at_positioner_angles(rng.uniform(-50, 50, 3), *rng.uniform([-180, -85], [180, 85]))
        points = geometry.source_ras + 620 * geometry.view_direction_ras + rng.uniform(-150, 150, (100, 3))
        homogeneous = np.c_[points, np.ones(len(points))] @ geometry.projection_matrix.T
        apart = np.abs(homogeneous[:, :2] / homogeneous[:, 2:] - geometry.project(points))
        worst = max(worst, float(apart.max()))
    CONSOLE.print(f"100 points in each of 1000 poses against the projection matrix: at most {worst:.1e} pixel apart")


def _speed() -> None:
    table = _table(
        f"time in ms, {thread_count()} threads: best on the clock (all processors)",
        *(
            "volume",
            "pixels",
            "view",
            "this",
            "this in numpy",
            "plastimatch exact",
            "nanodrr, 250 samples",
            "ray march",
        ),
    )
    ratios = _table(
        "times faster than the peer, on the clock (by time of all processors)",
        *("volume", "pixels", "view", "plastimatch exact", "nanodrr, 250 samples"),
    )
    for count, pixels in ((256, 512), (256, 200), (160, 96)):
        volume = _noise(count)
        ready = ProjectableVolume.of(volume)
        for view, direction in list(VIEWS.items())[:2]:
            geometry = _pose(direction, pixels)
            own = _best(lambda ready=ready, geometry=geometry: line_integrals(ready, geometry), 15)
            peers = [plastimatch(volume, geometry, 620.0), nanodrr(volume, geometry)]
            again = _best(lambda ready=ready, geometry=geometry: line_integrals(ready, geometry), 15)
            # What the machine had to give before and after the peers ran.
            own = min(own, again, key=lambda run: run.wall_s)
            numpy_path = _best(lambda volume=volume, geometry=geometry: _in_numpy(volume, geometry), 1)
            march = ray_march(volume, geometry) if pixels < 512 else None
            shown = [_time(run) for run in (own, numpy_path, *peers, march)]
            table.add_row(f"{count}^3", f"{pixels}^2", view, *shown)
            factors = [
                "not installed"
                if peer is None
                else f"{peer.wall_s / own.wall_s:.1f} ({peer.processor_s / own.processor_s:.1f})"
                for peer in peers
            ]
            ratios.add_row(f"{count}^3", f"{pixels}^2", view, *factors)
    CONSOLE.print(table)
    CONSOLE.print(ratios)


def _growth() -> None:
    table = _table(
        "growth: time of all processors in ms, best of 7, and per pixel and slice", "what", "size", "ms", "ns"
    )
    ready = ProjectableVolume.of(_noise(160))
    for pixels in (64, 128, 256, 512, 1024):
        run = _best(lambda pixels=pixels: line_integrals(ready, _pose([0, 1, 0.3], pixels)), 7)
        each = 1e9 * run.processor_s / pixels**2 / 160
        table.add_row("pixels, volume 160^3", f"{pixels}^2", f"{1000 * run.processor_s:.1f}", f"{each:.2f}")
    for count in (64, 128, 192, 256, 320, 384):
        ready = ProjectableVolume.of(_noise(count))
        run = _best(lambda ready=ready: line_integrals(ready, _pose([0, 1, 0.3], 256)), 7)
        each = 1e9 * run.processor_s / 256**2 / count
        table.add_row("voxels, image 256^2", f"{count}^3", f"{1000 * run.processor_s:.1f}", f"{each:.2f}")
    CONSOLE.print(table)


def _parts() -> None:
    table = _table("parts and batches: best on the clock (all processors)", "what", "ms")
    volume = _noise(160)
    making = _best(lambda: ProjectableVolume.of(volume), 5)
    table.add_row("making 160^3 ready: check and borders", _time(making))
    first = _best(lambda: line_integrals(ProjectableVolume.of(volume), _pose([0, 1, 0], 96)), 5)
    table.add_row("160^3 never seen before, 96^2", _time(first))
    ready = ProjectableVolume.of(volume)
    geometries = [_pose([0.01 * number, 1, 0.3], 96) for number in range(50)]
    batch = _best(lambda: line_integrals_of_poses(ready, geometries), 3)
    each = Rendered(batch.image, batch.wall_s / 50, batch.processor_s / 50)
    table.add_row("160^3, 96^2, each of a batch of 50 poses", _time(each))
    pixels = np.random.default_rng(SEED).uniform(0, 95, (1843, 2))
    table.add_row(
        "160^3, a fifth of 96^2 pixels", _time(_best(lambda: pixel_line_integrals(ready, geometries[0], pixels), 9))
    )
    coarse = ready.coarser()
    table.add_row("next level (80^3), 48^2", _time(_best(lambda: line_integrals(coarse, _pose([0, 1, 0.3], 48)), 9)))
    small = np.zeros((256, 256, 256), np.float32)
    small[120:140, 120:140, 120:140] = 0.16
    deposit = Volume(small, rigid(np.eye(3), np.full(3, -127.5)))
    table.add_row(
        "20 mm of cement in 256^3, never seen before, 512^2",
        _time(_best(lambda: line_integrals(deposit, _pose([0, 1, 0.3], 512)), 5)),
    )
    ct = ProjectableVolume.of(_shell(256))
    table.add_row(
        "hollow 256^3 (a tenth filled), 512^2", _time(_best(lambda: line_integrals(ct, _pose([0, 1, 0.3], 512)), 5))
    )
    code = (
        "from time import perf_counter; start = perf_counter()\n"
        "from sacroplasty.xray.compiled import warm_up; warm_up(); print(perf_counter() - start)"
    )
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    table.add_row("first call in a session: import, load compiled code, project", f"{1000 * min(seconds):.0f}")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        compiling = float(subprocess.check_output([sys.executable, "-c", code], text=True, env=environment))
    table.add_row("the very first call after installation, when it was not compiled then", f"{1000 * compiling:.0f}")
    CONSOLE.print(table)


def _in_numpy(volume: Volume, geometry: XrayGeometry) -> np.ndarray:
    """The same projector as it works without numba."""
    kept = projectable.compiled_loops
    project.compiled_loops = projectable.compiled_loops = lambda: None
    try:
        return line_integrals(volume, geometry)
    finally:
        project.compiled_loops = projectable.compiled_loops = kept


def _pose(direction: list[float], columns: int) -> XrayGeometry:
    return CArm().pose([0, 0, 0], direction, [0, 0, 1]).resampled(columns)


def _noise(count: int) -> Volume:
    """A cube that fills what a pelvis takes of the beam."""
    spacing = 300 / count
    voxels = np.random.default_rng(SEED).uniform(0.01, 0.03, (count,) * 3).astype(np.float32)
    return Volume(voxels, rigid(spacing * np.diag([-1.0, -1, 1]), spacing * np.array([1, 1, -1]) * (count - 1) / 2))


def _shell(count: int) -> Volume:
    """Noise in a hollow ball."""
    volume = _noise(count)
    distance = np.linalg.norm(np.stack(np.meshgrid(*[np.linspace(-1, 1, count)] * 3, indexing="ij")), axis=0)
    return volume.like(np.where((distance > 0.8) & (distance < 0.9), volume.voxels, 0))


def _ball(diameter_mm: float, spacing_mm: float) -> tuple[Volume, Callable[[XrayGeometry], np.ndarray]]:
    """Partial volume at the rim: 4 x 4 x 4 samples in each voxel."""
    radius = diameter_mm / 2
    count = int(np.ceil(diameter_mm / spacing_mm)) + 4
    axes = rotation_about([1, 2, 3], 25) * spacing_mm
    IJKToRAS = rigid(axes, -axes @ np.full(3, (count - 1) / 2))
    j, i = np.meshgrid(*[(np.arange(4 * count) + 0.5) / 4 - 0.5] * 2, indexing="ij")
    share = np.zeros((count, count, count), np.float32)
    for k in range(count):
        for part in (-0.375, -0.125, 0.125, 0.375):
            points = transform_points(IJKToRAS, np.stack([i, j, np.full_like(i, k + part)], axis=-1))
            share[k] += (np.linalg.norm(points, axis=-1) <= radius).reshape(count, 4, count, 4).mean(axis=(1, 3)) / 4

    def chords(geometry: XrayGeometry) -> np.ndarray:
        source, directions = rays(geometry)
        along = directions @ -source
        return 0.02 * 2 * np.sqrt(np.maximum(radius**2 - source @ source + along**2, 0))

    return Volume(0.02 * share, IJKToRAS), chords


def _box(
    counts_ijk: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[Volume, Callable[[XrayGeometry], np.ndarray]]:
    """Full voxels in an oblique grid."""
    counts = np.array(counts_ijk)
    axes = rotation_about([3, 1, 2], 35) @ np.diag(spacing_mm)
    IJKToRAS = rigid(axes, -axes @ ((counts - 1) / 2))
    volume = Volume(np.full(counts[::-1], 0.03, np.float32), IJKToRAS)

    def chords(geometry: XrayGeometry) -> np.ndarray:
        source, directions = rays(geometry)
        start, lines = transform_points(volume.RASToIJK, source), directions @ volume.RASToIJK[:3, :3].T
        one, other = (-0.5 - start) / lines, (counts - 0.5 - start) / lines
        return 0.03 * np.maximum(np.maximum(one, other).min(axis=-1) - np.minimum(one, other).max(axis=-1), 0)

    return volume, chords


def _best(run: Callable[[], object], times: int) -> Rendered:
    """The shortest times of several runs behind one that warms up."""
    result = run()
    clock, processors = [], []
    for _ in range(times):
        used, start = _processor_s(), perf_counter()
        run()
        clock.append(perf_counter() - start)
        processors.append(_processor_s() - used)
    return Rendered(np.asarray(result if isinstance(result, np.ndarray) else 0), min(clock), min(processors))


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _time(run: Rendered | None) -> str:
    if run is None:
        return "-"
    processors = "" if np.isnan(run.processor_s) else f" ({1000 * run.processor_s:.1f})"
    return f"{1000 * run.wall_s:.1f}{processors}"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading)
    return table


if __name__ == "__main__":
    main()
