"""The projectors that `projector.py` is compared with, each None where it is not installed.

- plastimatch (Debian package `plastimatch`): `drr -i exact`, Siddon's method, all processors.
- nanodrr (PyPI, with torch for the CPU) in an environment of its own, whose Python NANODRR_PYTHON names.
- Sampling each ray every half voxel with scipy's trilinear interpolation.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from scipy.ndimage import map_coordinates

from sacroplasty.geometry import flip_lps_ras, invert_rigid
from sacroplasty.image import Volume, itk_from_volume
from sacroplasty.xray.geometry import XrayGeometry


@dataclass(frozen=True)
class Rendered:
    """An image (rows, columns), seconds on the clock, and seconds of all processors (NaN when not measured)."""

    image: np.ndarray
    wall_s: float
    processor_s: float


def plastimatch_volume(volume: Volume) -> Volume:
    """The same with its axes along L, P, S, as plastimatch asks for, and two layers of nothing around.

    Without the layers plastimatch loses half a voxel at each border.
    """
    axes = np.abs(volume.IJKToRAS[:3, :3])
    order = [int(np.argmax(axes[world])) for world in range(3)]
    if sorted(order) != [0, 1, 2] or np.abs(np.sort(axes, axis=1)[:, :2]).max() > 1e-3:
        raise ValueError("plastimatch takes volumes along the patient's axes only")
    voxels = volume.voxels.transpose([2 - order[2], 2 - order[1], 2 - order[0]])
    IJKToRAS = volume.IJKToRAS.copy()
    IJKToRAS[:3, :3] = volume.IJKToRAS[:3, order]
    for axis, sign in enumerate((-1, -1, 1)):
        if IJKToRAS[axis, axis] * sign < 0:
            IJKToRAS[:3, 3] += IJKToRAS[:3, axis] * (voxels.shape[2 - axis] - 1)
            IJKToRAS[:3, axis] *= -1
            voxels = np.flip(voxels, 2 - axis)
    padded = np.pad(voxels, 2)
    IJKToRAS[:3, 3] -= IJKToRAS[:3, :3] @ [2, 2, 2]
    return Volume(np.ascontiguousarray(padded), IJKToRAS)


def plastimatch(volume: Volume, geometry: XrayGeometry, source_to_isocenter_mm: float) -> Rendered | None:
    """`plastimatch drr -i exact`; the clock is its own (reading the volume apart), processors without reading too."""
    program = shutil.which("plastimatch")
    if program is None:
        return None
    ready = plastimatch_volume(volume)
    columns, rows = geometry.detector_pixels
    u, v = geometry.pixel_spacing_mm
    isocenter = geometry.source_ras + source_to_isocenter_mm * geometry.view_direction_ras
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "volume.mha"
        write_itk_raw(ready, file)

        def run(shape: tuple[int, int]) -> tuple[str, float]:
            before = _children_s()
            done = subprocess.run(
                [
                    *(program, "drr", "-i", "exact", "-P", "none", "-t", "raw"),
                    *("-r", f"{shape[0]} {shape[1]}", "-z", f"{rows * v} {columns * u}"),
                    *("--sad", str(source_to_isocenter_mm), "--sid", str(geometry.source_to_detector_mm)),
                    *("-n", _numbers(flip_lps_ras(-geometry.view_direction_ras))),
                    *("--vup", _numbers(flip_lps_ras(-geometry.RASToDetector[1, :3]))),
                    *("-o", _numbers(flip_lps_ras(isocenter)), "-O", f"{folder}/out", str(file)),
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout, _children_s() - before

        _, reading_s = run((2, 2))
        told, all_s = run((rows, columns))
        image = np.fromfile(f"{folder}/out0000.raw", np.float32).reshape(rows, columns)
    clock = re.search(r"Total time: ([\d.]+)", told)
    assert clock is not None
    # It sums in cm and shows the picture from the source.
    return Rendered(10 * image[:, ::-1], float(clock[1]), all_s - reading_s)


def nanodrr(volume: Volume, geometry: XrayGeometry, samples: int = 250, repeats: int = 1) -> Rendered | None:
    """nanodrr on the CPU, the best of some repeats behind one that warms up."""
    python = os.environ.get("NANODRR_PYTHON")
    if python is None:
        return None
    x, y, distance = geometry.source_in_detector_mm
    u, v = geometry.pixel_spacing_mm
    # Its pixel centres lie at halves, its camera looks along +z.
    k_inv = [[u / distance, 0, -(x + u / 2) / distance], [0, v / distance, -(y + v / 2) / distance], [0, 0, 1]]
    CameraToDetector = np.diag([1.0, 1.0, -1.0, 1.0])
    CameraToDetector[:3, 3] = x, y, distance
    with tempfile.TemporaryDirectory() as folder:
        given, result = f"{folder}/in.npz", f"{folder}/out.npz"
        np.savez(
            given,
            volume=volume.voxels,
            IJKToRAS=volume.IJKToRAS,
            k_inv=np.array(k_inv),
            rt_inv=invert_rigid(geometry.RASToDetector) @ CameraToDetector,
            sdd=np.array(distance),
            shape=np.array(geometry.detector_pixels[::-1]),
        )
        script = Path(__file__).with_name("nanodrr_peer.py")
        subprocess.run([python, str(script), given, result, str(samples), str(repeats)], check=True)
        found = np.load(result)
        return Rendered(found["image"], float(found["seconds"].min()), float(found["processor_seconds"].min()))


def ray_march(volume: Volume, geometry: XrayGeometry) -> Rendered:
    """Samples at equal distances along each ray, between the spheres that hold the volume."""
    start = perf_counter()
    step = float(volume.spacing_mm.min()) / 2
    source, directions = rays(geometry)
    center = volume.ras_of([(np.array(volume.voxels.shape) - 1) / 2])[0]
    reach = float(np.linalg.norm(np.array(volume.voxels.shape[::-1]) * volume.spacing_mm)) / 2
    middle = float(np.linalg.norm(center - source))
    image = np.zeros(directions.shape[:2])
    for distance in np.arange(middle - reach, middle + reach, step):
        index = volume.kji_of(source + distance * directions)
        image += map_coordinates(volume.voxels, np.moveaxis(index, -1, 0), order=1, mode="grid-constant", cval=0.0)
    return Rendered(image * step, perf_counter() - start, float("nan"))


def rays(geometry: XrayGeometry) -> tuple[np.ndarray, np.ndarray]:
    """The source, and unit directions (rows, columns, 3) to all pixels."""
    columns, rows = geometry.detector_pixels
    pixels = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    lines = geometry.pixel_ras(pixels) - geometry.source_ras
    return geometry.source_ras, lines / np.linalg.norm(lines, axis=-1, keepdims=True)


def write_itk_raw(volume: Volume, path: Path) -> None:
    """Uncompressed, so that reading it costs the peer little."""
    import SimpleITK as sitk

    sitk.WriteImage(itk_from_volume(volume), str(path), useCompression=False)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
