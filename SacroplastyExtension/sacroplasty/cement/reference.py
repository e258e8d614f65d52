"""The frames before the injection, made into the background that later ones are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray, unit
from ..xray.geometry import XrayGeometry
from .alignment import align, aligned, exposure_change, moved_back
from .background import Background, Image, background_of, smoothed
from .cannula import Cannula
from .detector import find_detector, shown_share
from .frames import binned, binned_geometry, binning_of

_One = TypeVar("_One")

#: Fewer frames do not tell the noise from the anatomy.
FEWEST_REFERENCE_FRAMES = 4
#: A reference should take in a whole breath, so that how the patient moves is known [s], and at least so many frames.
_BREATH_S, _USUAL_FRAMES = 4.0, 8
#: More frames make it hardly better, and learning longer.
_MOST_FRAMES = 30
#: A level that this share of the pixels holds, the highest of all, is where the detector saturates.
_SATURATED_SHARE = 1e-3
#: Shifts between reference frames that need no alignment [pixels].
_STILL_PIXELS = 0.02
#: The second time the frames are compared with a sharper picture.
_ALIGNING_ROUNDS = 2
#: More of the field than this changes when an instrument moves.
_LARGEST_MOVED_SHARE = 0.001
#: So many pieces of a cannula of this length tell which way the greys run. Its shadow stands out more than twice as far
#: as what surrounds it, to the dark side or in a negative to the bright one; where none is to be seen (simulated
#: pictures), about half of the pieces are brighter and half darker.
_FEWEST_PIECES, _PIECE_MM, _NEGATIVE, _NEGATIVE_SHARE = 10, 2.0, 1.8, 0.6
#: Beside a cannula, at this distance, nothing is half as bright as steel in a negative; bone may be [mm].
_BESIDE_MM, _OUTSHINES = 12.0, 2.0
#: So much of what has to be seen must be usable.
_USABLE = 0.8


def taken_share(times_s: Sequence[float]) -> float:
    """How much of a reference is taken, from 0 to 1, by the times of its frames: enough of them, over a breath."""
    if not times_s:
        return 0.0
    return min(len(times_s) / _USUAL_FRAMES, (times_s[-1] - times_s[0]) / _BREATH_S, 1.0)


def thinned(frames: Sequence[_One]) -> Sequence[_One]:
    """Every so many of the frames of a reference, so that there are not too many."""
    return frames[:: -(-len(frames) // _MOST_FRAMES)]


def learn_background(
    frames: Sequence[NDArray],
    geometry: XrayGeometry,
    needed_ras: FloatArray | None = None,
    cannula: Cannula | None = None,
) -> Background:
    """The view before the injection from at least four frames of one pose, trocar in place.

    Args:
        frames: each (rows, columns), larger values brighter.
        needed_ras: (n, 3) places that have to be seen, as around the tip.
        cannula: that may tremble.

    Raises:
        ImageError: for too few, frozen, black, saturated, inverted or noisy frames, or if something but the patient
            moved.
    """
    if len(frames) < FEWEST_REFERENCE_FRAMES:
        raise ImageError(
            f"{len(frames)} reference frames are too few: take at least {FEWEST_REFERENCE_FRAMES} before the injection"
        )
    columns, rows = geometry.detector_pixels
    if any(frame.shape != (rows, columns) for frame in frames):
        raise ImageError(f"a reference frame does not have the {columns} x {rows} pixels of its geometry")
    if all(np.array_equal(frame, frames[0]) for frame in frames[1:]):
        raise ImageError("all reference frames are identical: fluoroscopy is frozen; start it before the monitor")
    frames = thinned(frames)
    white = min(_white_level(frame) for frame in frames)
    binning = binning_of(geometry)
    stack = [binned(frame, binning) for frame in frames]
    detector = find_detector(stack, binned_geometry(geometry, binning), needed_ras)
    stack = [detector.mended(one) for one in stack]
    # The patient breathes while the reference is taken. All frames together would be blurred and seem noisy, so that no
    # edge stood out of the noise; the first few do not.
    few = stack[:FEWEST_REFERENCE_FRAMES]
    background = background_of(few, geometry, white, detector, detector.clear, needed_ras, cannula)
    for _ in range(_ALIGNING_ROUNDS):
        still, shown = _stilled(stack, background)
        background = background_of(still, geometry, white, detector, shown, needed_ras, cannula)
    if background.moved_share > _LARGEST_MOVED_SHARE:
        raise ImageError("something moved while the reference was taken; keep instruments still and take it again")
    if needed_ras is not None and shown_share(background.usable, background.geometry, needed_ras) < _USABLE:
        raise ImageError(
            "the tip's surroundings are not to be seen in the picture; open the collimator, raise the dose"
        )
    if cannula is not None and _looks_bright(cannula, background):
        raise ImageError("the cannula is brighter than what surrounds it: the greys are inverted; turn them round")
    return background


def _stilled(stack: list[Image], background: Background) -> tuple[list[Image], NDArray[np.bool_]]:
    """Frames in the place of the background, and of its exposure, and which pixels all of them show; as they are when
    nothing moved."""
    found = [
        align(background, np.log(np.maximum(smoothed(one), background.least_signal)), background.usable)
        for one in stack
    ]
    shown = background.detector.clear
    if max(np.abs([*one.shift_pixels, *one.warp.ravel()]).max() for one in found) <= _STILL_PIXELS:
        return stack, shown
    for alignment in found:
        row, column = np.rint(alignment.shift_pixels).astype(int)
        shown = shown & moved_back(background.detector.clear, (int(row), int(column)))
    still = [
        (aligned(one, alignment) / np.exp(exposure_change(background, alignment))).astype(np.float32)
        for one, alignment in zip(stack, found, strict=True)
    ]
    return still, shown


def _looks_bright(cannula: Cannula, background: Background) -> bool:
    """Whether steel, the darkest of all, is bright: then the picture is a negative. Thin bone would tell no side."""
    dark, bright = _stands_out(cannula, background)
    if len(bright) < _FEWEST_PIECES:
        return False
    if not (np.median(bright) > _NEGATIVE * np.median(dark) and np.mean(bright > dark) > _NEGATIVE_SHARE):
        return False
    aside = unit(np.cross(cannula.towards_hub, background.geometry.source_ras - cannula.tip_ras))
    for way_mm in (-_BESIDE_MM, _BESIDE_MM):
        _, beside = _stands_out(replace(cannula, tip_ras=cannula.tip_ras + way_mm * aside), background)
        if len(beside) and np.median(bright) < _OUTSHINES * np.median(beside):
            return False
    return True


def _stands_out(cannula: Cannula, background: Background) -> FloatArray:
    """How far each piece of a cannula's shadow stands out to the dark and to the bright side (2, pieces)."""
    along_mm = cannula.along_mm(background.geometry)
    here = background.usable & (along_mm >= 0)
    piece = (along_mm[here] / _PIECE_MM).astype(int)
    values = background.log_detail.values[here]
    return np.array([[np.max(sign * values[piece == one]) for one in np.unique(piece)] for sign in (-1, 1)])


def _white_level(frame: NDArray) -> float:
    """The largest value, if many pixels have it."""
    most = frame.max()
    return float(most) if np.count_nonzero(frame == most) > _SATURATED_SHARE * frame.size else float("inf")
