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


def _coarse_image(ct: Volume) -> tuple[NDArray[np.float32], FloatArray, NDArray[np.bool_]]:
    """The CT on a grid along the RAS axes: HU [r, a, s], RAS of its first voxel, and True inside the CT.

    Each voxel is the mean over the fine voxels around it, so that thin cortex is not stepped over.
    """
    from scipy import ndimage

    factors = np.maximum(1, np.round(_STEP_MM / 1.5 / ct.spacing_mm[::-1]).astype(int))
    shape = np.array(ct.voxels.shape) // factors
    used = ct.voxels[tuple(slice(0, n * f) for n, f in zip(shape, factors, strict=True))]
    fine = used.reshape(*np.ravel(np.column_stack([shape, factors]))).mean(axis=(1, 3, 5), dtype=np.float32)
    corners = ct.ras_of(np.stack(np.meshgrid(*[[0, n - 1] for n in ct.voxels.shape], indexing="ij"), -1).reshape(-1, 3))
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.maximum(1, np.ceil((high - low) / _STEP_MM)).astype(int) + 1
    # voxel of `fine` at index r, a, s of the grid
    GridToKJI = ct.RASToIJK[:3, :3][::-1] * _STEP_MM / factors[:, None]
    start = (ct.kji_of(low) - (factors - 1) / 2) / factors
    sampled = ndimage.affine_transform(fine, GridToKJI, start, output_shape=tuple(size), order=1, cval=np.nan)
    inside = np.isfinite(sampled)
    return np.where(inside, sampled, -1000).astype(np.float32), low, inside


def find_pelvis(ct: Volume, template: Template) -> list[Place]:
    """The most likely places of the pelvis, best first; each is tried by the caller.

    Normalized correlation of bone density with the template's, only over what the image shows (Padfield 2012, IEEE
    Trans Image Process 21:2706, masked registration in the Fourier domain).
    """
    image, low, inside = _coarse_image(ct)
    density = np.clip((image - _BONE_HU[0]) / (_BONE_HU[1] - _BONE_HU[0]), 0, 1) * inside
    places: list[Place] = []
    for scale in _SCALES:
        for pitch in _PITCHES_DEG:
            matrix = rotation_about((1, 0, 0), pitch) * scale
            kernel, corner = _rasterized(template.points_mm @ matrix.T)
            score = _correlation(density, inside, kernel)
            for _ in range(_CANDIDATES):
                best = np.unravel_index(int(np.argmax(score)), score.shape)
                if score[best] <= 0:
                    break
                # Indices past the image's end of the cyclic transform stand for negative shifts.
                shift = [b if b < n else b - whole for b, n, whole in zip(best, image.shape, score.shape, strict=True)]
                places.append(Place(matrix, low + np.array(shift) * _STEP_MM - corner, float(score[best])))
                score[tuple(slice(max(b - 3, 0), b + 4) for b in best)] = -1
    return _apart(places)


def _correlation(
    density: NDArray[np.float32], inside: NDArray[np.bool_], kernel: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Correlation at every cyclic shift of the kernel, -1 where too little of it would lie in the image."""
    from scipy import fft

    shape = [fft.next_fast_len(a + b, real=True) for a, b in zip(density.shape, kernel.shape, strict=True)]

    def spectrum(values: NDArray) -> NDArray[np.complex64]:
        return np.asarray(fft.rfftn(values.astype(np.float32), shape, workers=2))

    def correlated(image: NDArray[np.complex64], pattern: NDArray[np.complex64]) -> NDArray[np.float32]:
        return np.asarray(fft.irfftn(image * np.conj(pattern), shape, workers=2))

    known, once, squared = spectrum(inside), spectrum(density), spectrum(density**2)
    weight, pattern, pattern_squared = spectrum(np.ones_like(kernel)), spectrum(kernel), spectrum(kernel**2)
    n = np.maximum(correlated(known, weight), 1)
    sum_i, sum_ii = correlated(once, weight), correlated(squared, weight)
    sum_t, sum_tt = correlated(known, pattern), correlated(known, pattern_squared)
    product = correlated(once, pattern) - sum_i * sum_t / n
    spread = np.maximum(sum_ii - sum_i**2 / n, 0) * np.maximum(sum_tt - sum_t**2 / n, 0)
    # What is outside the image is unknown: a good fit of a part counts less than one of the whole.
    shown = np.clip(sum_t / kernel.sum(), 0, 1)
    score = product / np.sqrt(np.maximum(spread, 1e-6 * n**2)) * np.sqrt(shown)
    return np.where(sum_t > _LEAST_OVERLAP * kernel.sum(), score, -1)


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
