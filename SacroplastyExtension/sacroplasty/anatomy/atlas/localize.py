"""Where the pelvis is in a CT: the average pelvis is moved over the image, and the best places are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...geometry import FloatArray, rotation_about
from ...image import Volume
from .template import Template

#: Voxels of the search [mm]; the wing of the sacrum measures about seven of them.
_STEP_MM = 5.0
#: HU at which a coarse voxel begins to look like bone, and above which it counts whole.
_BONE_HU = (110.0, 360.0)
#: Sacral slopes of people spread by 8 degrees (SD) about the average and pelves in a scanner pitch as well.
_PITCHES_DEG = (-24.0, -8.0, 8.0, 24.0)
_SCALES = (0.9, 1.03)
#: At least this share of the pelvis must lie inside the image for a place to be looked at.
_LEAST_OVERLAP = 0.35
_CANDIDATES = 4
_APART_MM = 25.0


@dataclass(frozen=True)
class Place:
    """A similarity that puts the average pelvis into the image: `x_ras = matrix @ x_atlas + origin_ras`."""

    matrix: FloatArray
    origin_ras: FloatArray
    correlation: float

    def apply(self, points_mm: FloatArray) -> FloatArray:
        return np.asarray(points_mm @ self.matrix.T + self.origin_ras)


def coarse_image(ct: Volume, step_mm: float) -> tuple[NDArray[np.float32], FloatArray, NDArray[np.bool_]]:
    """The CT on a grid along the RAS axes: HU [r, a, s], RAS of its first voxel, and True inside the CT.

    Each voxel is the mean over the fine voxels around it, so that thin cortex is not stepped over.
    """
    from scipy import ndimage

    factors = np.maximum(1, np.round(step_mm / 1.5 / ct.spacing_mm[::-1]).astype(int))
    shape = np.array(ct.voxels.shape) // factors
    used = ct.voxels[tuple(slice(0, n * f) for n, f in zip(shape, factors, strict=True))]
    fine = used.reshape(*np.ravel(np.column_stack([shape, factors]))).mean(axis=(1, 3, 5), dtype=np.float32)
    corners = ct.ras_of(np.stack(np.meshgrid(*[[0, n - 1] for n in ct.voxels.shape], indexing="ij"), -1).reshape(-1, 3))
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.maximum(1, np.ceil((high - low) / step_mm)).astype(int) + 1
    # voxel of `fine` at index r, a, s of the grid
    GridToKJI = ct.RASToIJK[:3, :3][::-1] * step_mm / factors[:, None]
    start = (ct.kji_of(low) - (factors - 1) / 2) / factors
    sampled = ndimage.affine_transform(fine, GridToKJI, start, output_shape=tuple(size), order=1, cval=np.nan)
    inside = np.isfinite(sampled)
    return np.where(inside, sampled, -1000).astype(np.float32), low, inside


def find_pelvis(ct: Volume, template: Template) -> list[Place]:
    """The most likely places of the pelvis, best first; each is tried by the caller.

    Normalized correlation of bone density with the template's, only over what the image shows (Padfield 2012, IEEE
    Trans Image Process 21:2706, masked registration in the Fourier domain).
    """
    from scipy import fft

    image, low, inside = coarse_image(ct, _STEP_MM)
    density = np.clip((image - _BONE_HU[0]) / (_BONE_HU[1] - _BONE_HU[0]), 0, 1) * inside
    places: list[Place] = []
    for scale in _SCALES:
        for pitch in _PITCHES_DEG:
            matrix = rotation_about((1, 0, 0), pitch) * scale
            kernel, corner = _rasterized(template.points_mm @ matrix.T)
            weight = np.ones_like(kernel)
            shape = [fft.next_fast_len(a + b, real=True) for a, b in zip(density.shape, kernel.shape, strict=True)]

            def correlate(a: NDArray, b: NDArray, shape: list[int] = shape) -> NDArray:
                spectrum = fft.rfftn(a.astype(np.float32), shape, workers=2)
                spectrum *= np.conj(fft.rfftn(b.astype(np.float32), shape, workers=2))
                return np.asarray(fft.irfftn(spectrum, shape, workers=2))

            n = np.maximum(correlate(inside, weight), 1)
            sum_i, sum_ii = correlate(density, weight), correlate(density**2, weight)
            sum_t, sum_tt = correlate(inside, kernel), correlate(inside, kernel**2)
            product = correlate(density, kernel) - sum_i * sum_t / n
            spread = np.maximum(sum_ii - sum_i**2 / n, 0) * np.maximum(sum_tt - sum_t**2 / n, 0)
            enough = sum_t > _LEAST_OVERLAP * kernel.sum()
            # What is outside the image is unknown: a good fit of a part counts less than one of the whole.
            shown = np.clip(sum_t / kernel.sum(), 0, 1)
            score = np.where(enough, product / np.sqrt(np.maximum(spread, 1e-6 * n**2)) * np.sqrt(shown), -1)
            for _ in range(_CANDIDATES):
                best = np.unravel_index(int(np.argmax(score)), score.shape)
                if score[best] <= 0:
                    break
                # Indices past the middle of the cyclic transform stand for negative shifts.
                shift = np.array([b if b < d else b - s for b, d, s in zip(best, density.shape, shape, strict=True)])
                origin = low + (shift * _STEP_MM) - corner
                places.append(Place(matrix, origin, float(score[best])))
                near = tuple(slice(max(b - 3, 0), b + 4) for b in best)
                score[near] = -1
    return _apart(places)


def _rasterized(points: FloatArray) -> tuple[NDArray[np.float32], FloatArray]:
    """Density of surface points on the search grid, blurred as cortex is, and the grid's first voxel."""
    from scipy import ndimage

    corner = points.min(axis=0) - 2 * _STEP_MM
    index = np.round((points - corner) / _STEP_MM).astype(int)
    grid = np.zeros(index.max(axis=0) + 3, np.float32)
    grid[tuple(index.T)] = 1
    return ndimage.gaussian_filter(grid, 0.6), corner


def _apart(places: list[Place]) -> list[Place]:
    kept: list[Place] = []
    for place in sorted(places, key=lambda one: -one.correlation):
        if all(np.linalg.norm(place.origin_ras - other.origin_ras) > _APART_MM for other in kept):
            kept.append(place)
        if len(kept) == _CANDIDATES:
            break
    return kept
