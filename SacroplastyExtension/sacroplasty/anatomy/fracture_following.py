"""A sheet that the filters found, followed through the bone as far as it stands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import FloatArray
from .fracture_model import EvidenceKind
from .fracture_sheets import BELL_MM, WINDOW_MM, SacralBlock, SheetCandidate, at, fit_bell

#: Half size of the patch in which a sheet is followed, and its steps in and across the sheet [mm].
_HALF_SHEET_MM, _SHEET_STEP_MM, _ACROSS_MM, _ACROSS_STEP_MM = 44.0, 2.0, 14.0, 1.0
#: Smoothing (SD) in the sheet while it is followed, and how far it may bend off its plane [mm].
_FOLLOW_MM, _BEND_MM = 3.0, 3.0
#: It is followed while its response is this share of that at its middle, and this many times the usual one.
_SHARE, _TIMES_USUAL = 0.4, 2.0
#: Cells of the patch around its middle in which it must begin (half width), and the fewest cells that are a sheet.
_CORE, _FEWEST = 3, 12


@dataclass(frozen=True)
class Sheet:
    """A candidate followed through the bone; sacral coordinates.

    Attributes:
        points_mm: (n, 3), one each 2 mm.
        normals: unit normal of the whole sheet (3,).
        along: unit vector in the sheet along its longer extent.
    """

    candidate: SheetCandidate
    points_mm: FloatArray
    normal: FloatArray
    along: FloatArray
    extent_mm: tuple[float, float]

    @property
    def area_mm2(self) -> float:
        return len(self.points_mm) * _SHEET_STEP_MM**2


def follow(block: SacralBlock, candidate: SheetCandidate, usual: dict[EvidenceKind, float]) -> Sheet | None:
    """The connected part of the sheet that stands out, following gentle bends; None when nothing does."""
    from scipy import ndimage

    center, axes = candidate.center_mm, candidate.axes
    sheet = None
    for _ in range(2):
        in_sheet = np.arange(-_HALF_SHEET_MM, _HALF_SHEET_MM + 0.1, _SHEET_STEP_MM)
        across = np.arange(-_ACROSS_MM, _ACROSS_MM + 0.1, _ACROSS_STEP_MM)
        local = np.stack(np.meshgrid(across, in_sheet, in_sheet, indexing="ij"), axis=-1)
        points = center + local @ axes.T
        weight = at(block, block.interior, points)
        data = at(block, block.signs[candidate.kind], points) * weight
        smooth = (0, _FOLLOW_MM / _SHEET_STEP_MM, _FOLLOW_MM / _SHEET_STEP_MM)
        weight, data = (ndimage.gaussian_filter(values, smooth, mode="constant") for values in (weight, data))
        response = np.nan_to_num(fit_bell(weight, [data], _ACROSS_STEP_MM, WINDOW_MM, BELL_MM)[0], nan=0.0)
        near = np.abs(across) <= _BEND_MM
        best = response[near].max(axis=0)
        bend = across[near][response[near].argmax(axis=0)]
        middle = len(in_sheet) // 2
        core = best[middle - _CORE : middle + _CORE + 1, middle - _CORE : middle + _CORE + 1]
        stands_out = best > max(_SHARE * float(core.max()), _TIMES_USUAL * usual[candidate.kind])
        parts, _ = ndimage.label(stands_out)
        inside = parts[middle - _CORE : middle + _CORE + 1, middle - _CORE : middle + _CORE + 1]
        touched = np.bincount(inside[inside > 0]) if (inside > 0).any() else np.zeros(1)
        if touched.max(initial=0) == 0:
            return None
        part = parts == int(np.argmax(touched))
        u, v = (in_sheet[index] for index in np.nonzero(part))
        if len(u) < _FEWEST:
            return None
        offset = _bent(u, v, bend[part], best[part])
        found = center + np.column_stack([offset, u, v]) @ axes.T
        sheet = _sheet(candidate, found)
        center, axes = (
            found.mean(axis=0),
            np.column_stack([sheet.normal, sheet.along, np.cross(sheet.normal, sheet.along)]),
        )
    return sheet


def _bent(u: FloatArray, v: FloatArray, bend: FloatArray, weight: FloatArray) -> FloatArray:
    """Offsets of a gently bent surface (quadratic) through noisy ones."""
    basis = np.column_stack([np.ones_like(u), u, v, u * u, u * v, v * v]) / [1, 20, 20, 400, 400, 400]
    root = np.sqrt(weight)[:, None]
    # Held towards flat, so that small patches do not curl.
    left, right = np.vstack([basis * root, 0.3 * np.eye(6)]), np.append(bend * root[:, 0], np.zeros(6))
    return np.clip(basis @ np.linalg.lstsq(left, right)[0], -2 * _BEND_MM, 2 * _BEND_MM)


def _sheet(candidate: SheetCandidate, points: FloatArray) -> Sheet:
    away = points - points.mean(axis=0)
    _, _, vectors = np.linalg.svd(away, full_matrices=False)
    along, normal = vectors[0], vectors[2]
    normal = normal * np.sign(normal @ candidate.axes[:, 0])
    extents = np.ptp(away @ vectors[:2].T, axis=0) + _SHEET_STEP_MM
    return Sheet(candidate, points, normal, along, (float(extents[0]), float(extents[1])))
