"""Cuts through a CT with the outlines of found and true bones, as PNG: figures say how much is wrong, pictures what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sacroplasty.image import Volume

#: Window of the gray values [HU].
_LOW_HU, _HIGH_HU = -200.0, 600.0
_STEP_MM = 0.7
#: Colors of labels 1 to 4: sacrum, L5, left and right hip. The truth is drawn in white below them.
_COLORS = {1: (255, 200, 0), 2: (60, 200, 90), 3: (70, 150, 255), 4: (255, 80, 160)}
_TRUTH = (255, 255, 255)


def save_cuts(path: Path, ct: Volume, found: Volume | None, true: Volume | None = None) -> None:
    """Axial cuts at three heights of the sacrum, a coronal and two sagittal ones, in one row each of three.

    Args:
        found, true: bone labels on the CT's grid; the cuts go through the found sacrum, else the true one, else the
            middle of the image.
    """
    from PIL import Image

    bones = next((b for b in (found, true) if b is not None and (b.voxels == 1).any()), None)
    if bones is not None:
        points = bones.ras_of(np.argwhere(bones.voxels == 1))
        low, high = np.percentile(points, [2, 98], axis=0)
    else:
        middle = ct.ras_of([(np.array(ct.voxels.shape) - 1) / 2])[0]
        low, high = middle - 40, middle + 40
    centre = (low + high) / 2
    rows = [
        [_cut(ct, found, true, centre, 2, low[2] + part * (high[2] - low[2])) for part in (0.88, 0.66, 0.4)],
        [
            _cut(ct, found, true, centre, 1, centre[1]),
            _cut(ct, found, true, centre, 0, centre[0]),
            _cut(ct, found, true, centre, 0, centre[0] + 0.3 * (high[0] - low[0])),
        ],
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)).save(path)


def _cut(
    ct: Volume, found: Volume | None, true: Volume | None, centre: NDArray[np.float64], normal: int, at_mm: float
) -> NDArray[np.uint8]:
    """A square cut of 230 mm, patient's right on the left of the picture, superior or anterior at the top."""
    from scipy.ndimage import map_coordinates

    across = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[normal]
    sideways, up = (np.arange(-115, 115, _STEP_MM) for _ in range(2))
    points = np.empty((len(up), len(sideways), 3))
    points[..., normal] = at_mm
    points[..., across[0]] = centre[across[0]] + -1 * sideways[None, :]
    points[..., across[1]] = centre[across[1]] + up[::-1, None]
    indices = np.moveaxis(ct.kji_of(points.reshape(-1, 3)), -1, 0)
    gray = map_coordinates(ct.voxels.astype(np.float32, copy=False), indices, order=1, cval=-1024)
    gray = np.clip((gray - _LOW_HU) / (_HIGH_HU - _LOW_HU), 0, 1).reshape(points.shape[:2])
    picture = np.repeat((255 * gray).astype(np.uint8)[..., None], 3, axis=2)
    for volume, colors in ((true, dict.fromkeys(_COLORS, _TRUTH)), (found, _COLORS)):
        if volume is None:
            continue
        labels = map_coordinates(volume.voxels, indices, order=0, cval=0).reshape(points.shape[:2])
        for label, color in colors.items():
            picture[_outline(labels == label)] = color
    return picture


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)
