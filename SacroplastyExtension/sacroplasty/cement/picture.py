"""Pictures of a live view with its cement, in colors: for the page, for a large screen, and as evidence in the report.

A `Shot` is what a view showed at one moment, small enough that half a minute of it can be kept; `paint` makes a picture
of it. What lies over the picture follows the patient's movement as far as the monitor compensates it.

    shot = shot_of(frame.pixels, frame.time_s, frame.geometry, background, seen, cement_per_mm)
    lines = lines_of(outlines(surfaces, shot.geometry), shot.geometry)
    leak = lines_of([place_mark(event.position_ras, shot.geometry)], shot.geometry, LEAK_COLOR)
    evidence = paint(shot, [lines, leak])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.colors import color_of
from ..geometry import FloatArray
from ..xray.geometry import XrayGeometry
from ..xray.overlay import Outline, line_pixels
from .background import Background, Image
from .cement_map import CementMap
from .frames import binned, binned_geometry, grey_signal
from .pieces import widened

#: `live` as it comes, `subtraction` of what the view showed before the injection, or `road map`: what came since it was
#: taken, with the older cement pale.
Kind = Literal["live", "subtraction", "road map"]
Color = tuple[int, int, int]
RGB = NDArray[np.uint8]

#: Wider pictures are joined from several detector pixels: 30 s of two views have to be kept [columns].
_MOST_COLUMNS = 640
#: Darkest and brightest shown: percentiles of the signal's logarithm, and what counts as outside the field, as a share
#: of the median.
_WINDOW_PERCENT, _OUTSIDE_FIELD = (1.0, 99.5), 0.02
#: Slow changes of the logarithm: over which share of the picture, and how much of them is taken out, as C-arms do;
#: worked out on every eighth pixel.
_SLOW_SHARE, _SLOW_TAKEN, _COARSE = 0.12, 0.75, 8
#: Grey of no change in a subtraction, and how much darker each millimeter of cement is.
NO_CHANGE, GREY_PER_MM = 200, 13.0
#: Grey of the older cement in a road map.
_OLDER = 235
#: How much of the color of time hides the picture beneath.
_OPACITY = 0.55
#: From the oldest cement to the newest, which is the brightest.
_TIME_COLORS: tuple[Color, ...] = ((58, 30, 150), (150, 40, 160), (220, 80, 100), (250, 160, 50), (250, 245, 110))
#: Width of lines, radius of a place's ring and half the width of the tip's cross, as shares of the picture's columns.
_LINE_SHARE, _MARK_SHARE, _TIP_SHARE = 1 / 220, 1 / 24, 1 / 80
#: In a picture as wide as this the cement's outline is two pixels wide [columns].
_WIDE_COLUMNS = 400
LEAK_COLOR: Color = (255, 60, 60)
TIP_COLOR: Color = (90, 210, 255)
_CEMENT_COLOR = (255, 255, 255)
_BLACK = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class SeenCement:
    """Cement on the pixels of its map, in the place that the background had.

    Attributes:
        subtracted: (rows, columns) grey picture, `NO_CHANGE` where there is no cement and darker where there is.
        detected: (rows, columns) pixels with cement.
        step: detector pixels per pixel of the map, each way.
        shift: (rows, columns) by which the live picture lies beside the map [pixels of the map].
    """

    subtracted: NDArray[np.uint8]
    detected: NDArray[np.bool_]
    step: int
    shift: FloatArray


@dataclass(frozen=True, eq=False)
class Shot:
    """What one view showed at one moment.

    Attributes:
        grey: (rows, columns), brighter where more X-rays came through, windowed.
        step: detector pixels per pixel of the picture, each way.
        geometry: of the picture's pixels; None when it is not known.
        cement: None when the monitor could not see.
    """

    time_s: float
    grey: NDArray[np.uint8]
    step: int
    geometry: XrayGeometry | None
    cement: SeenCement | None

    @property
    def shift(self) -> FloatArray:
        """(rows, columns) by which the patient has moved in this picture, as far as is known [pixels]."""
        return np.zeros(2) if self.cement is None else self.cement.shift * self.cement.step / self.step


@dataclass(frozen=True, eq=False)
class Lines:
    """Outlines as pixels of one picture, to be put over it at any shift.

    Attributes:
        at: (n, 2) row and column, dark rims first.
        colors: (n, 3).
    """

    at: NDArray[np.intp]
    colors: NDArray[np.uint8]


def shot_of(
    pixels: NDArray,
    time_s: float,
    geometry: XrayGeometry | None,
    background: Background | None = None,
    seen: CementMap | None = None,
    cement_per_mm: float = 1.0,
) -> Shot:
    """Make a frame small and grey.

    Args:
        pixels: as the fluoroscope gave them (see `grey_signal`).
        geometry: of the detector's own pixels.
        background, seen: what the monitor made of this frame; None when it could not see.
        cement_per_mm: linear attenuation of cement.

    Raises:
        ImageError: for pixels that are no picture.
    """
    signal = grey_signal(pixels)
    step = picture_step(signal.shape[1])
    small = binned(signal, step)
    log = np.log(np.maximum(small, 1.0) if small.max() > 1 else small + np.float32(1e-6))
    flat = _flattened(log)
    lit = flat[small > _OUTSIDE_FIELD * float(np.median(small[::4, ::4]))][::7]
    low, high = np.percentile(lit, _WINDOW_PERCENT) if lit.size else (0.0, 1.0)
    grey = np.clip((flat - np.float32(low)) * np.float32(255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    cement = None
    if background is not None and seen is not None and seen.alignment is not None:
        path = seen.attenuation * np.float32(GREY_PER_MM / cement_per_mm)
        cement = SeenCement(
            np.clip(NO_CHANGE - path, 0, 255).astype(np.uint8),
            seen.detected,
            background.binning,
            seen.alignment.shift_pixels,
        )
    return Shot(time_s, grey, step, None if geometry is None else binned_geometry(geometry, step), cement)


def picture_step(columns: int) -> int:
    """How many detector pixels a pixel of a shot joins, each way, for a detector of so many columns."""
    return -(-columns // _MOST_COLUMNS)


class FirstSeen:
    """When each pixel of a view first held cement; NaN where it never did.

    A pixel counts from the first of two shots in a row that show cement there, so that a speck of noise leaves nothing.
    """

    def __init__(self) -> None:
        self.times_s: NDArray[np.float64] | None = None
        self._before: tuple[NDArray[np.bool_], float] | None = None

    def take(self, cement: SeenCement, time_s: float) -> None:
        """The cement of the next shot."""
        if self.times_s is None or self.times_s.shape != cement.detected.shape:
            self.times_s, self._before = np.full(cement.detected.shape, np.nan), None
        if self._before is not None:
            earlier, earlier_s = self._before
            self.times_s[cement.detected & earlier & np.isnan(self.times_s)] = earlier_s
        self._before = cement.detected, time_s


def lines_of(outlines: Iterable[Outline], geometry: XrayGeometry, color: Color | None = None) -> Lines:
    """Outlines in their structures' colors, or in one color; each has a dark rim.

    Args:
        outlines: in the pixels of `geometry`, which is a shot's.
    """
    width = max(2.0, geometry.detector_pixels[0] * _LINE_SHARE)
    rims, inner = [], []
    for outline in outlines:
        own = color or _bytes(color_of(outline.name))
        rims.append((np.argwhere(line_pixels(outline, geometry, width + 2.0)), _BLACK))
        inner.append((np.argwhere(line_pixels(outline, geometry, width)), own))
    parts = [*rims, *inner]
    if not parts:
        return Lines(np.zeros((0, 2), np.intp), np.zeros((0, 3), np.uint8))
    colors = [np.broadcast_to(np.array(own, np.uint8), (len(at), 3)) for at, own in parts]
    return Lines(np.concatenate([at for at, _ in parts]), np.concatenate(colors))


def place_mark(position_ras: ArrayLike, geometry: XrayGeometry) -> Outline:
    """A ring with four arms around where a place in the patient (RAS) is seen; nothing when it is behind the source."""
    radius_pixels = _MARK_SHARE * geometry.detector_pixels[0]
    center = geometry.project(np.asarray(position_ras, float))
    if not np.isfinite(center).all():
        return Outline("place", ())
    turn = np.linspace(0, 2 * np.pi, 49)
    ring = center + radius_pixels * np.column_stack([np.cos(turn), np.sin(turn)])
    arms = [np.array([center + way * radius_pixels * inner for inner in (1.0, 1.8)]) for way in _CROSS]
    return Outline("place", (ring, *arms))


_CROSS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def tip_mark(tip_ras: ArrayLike, geometry: XrayGeometry) -> Outline:
    """A small upright cross where cement leaves the trocar."""
    return cross_mark(geometry.project(np.asarray(tip_ras, float)), geometry.detector_pixels[0])


def cross_mark(center_uv: ArrayLike, columns: int) -> Outline:
    """A small upright cross at a place of a picture of so many columns; nothing when the place is not finite."""
    center = np.asarray(center_uv, float)
    if not np.isfinite(center).all():
        return Outline("tip", ())
    return Outline("tip", tuple(np.array([center - way, center + way]) for way in _TIP_SHARE * columns * _CROSS[::2]))


def paint(
    shot: Shot,
    lines: Sequence[Lines] = (),
    kind: Kind = "live",
    first_seen_s: NDArray[np.float64] | None = None,
    road_map: SeenCement | None = None,
) -> RGB:
    """The picture (rows, columns, 3) with the cement's outline and lines over it.

    Args:
        kind: where the monitor could not see, every kind is live.
        first_seen_s: see `FirstSeen`; colors the cement by it. None for no colors.
        road_map: the cement when the road map was taken.
    """
    grey = shot.grey
    cement = shot.cement
    if cement is not None and kind != "live":
        grey = _on_picture(_changed(cement, road_map if kind == "road map" else None), shot, NO_CHANGE)
    picture = np.repeat(grey[..., None], 3, axis=2)
    if cement is not None and cement.detected.any():
        shown = _on_picture(cement.detected, shot, False)
        if first_seen_s is not None and first_seen_s.shape == cement.detected.shape:
            _color_by_time(picture, _on_picture(first_seen_s, shot, np.nan), shown, shot.time_s)
        _outline(picture, shown)
    for one in lines:
        _put(picture, one, np.rint(shot.shift).astype(int))
    return picture


def time_scale(width: int, height: int) -> RGB:
    """The colors of time, the oldest at the left (height, width, 3)."""
    colors = _time_color(np.linspace(0.0, 1.0, width))
    return np.repeat(colors[None], height, axis=0)


def ppm(picture: RGB) -> bytes:
    """The picture as a file that needs no compression: the quickest that painters read (Netpbm P6)."""
    rows, columns = picture.shape[:2]
    return b"P6 %d %d 255\n" % (columns, rows) + np.ascontiguousarray(picture).tobytes()


def _flattened(log: Image) -> Image:
    """The logarithm of a signal with its slow changes reduced, so that thin and thick parts show bone alike."""
    from scipy.ndimage import uniform_filter

    coarse = log[_COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE]
    side = max(3, round(_SLOW_SHARE * max(coarse.shape)))
    slow = uniform_filter(uniform_filter(coarse, side, mode="nearest"), side, mode="nearest")
    between: Image = _between(_between(slow, log.shape[0]).T, log.shape[1]).T
    flat: Image = log - np.float32(_SLOW_TAKEN) * between
    return flat


def _between(coarse: Image, size: int) -> Image:
    """Rows at every `_COARSE`th pixel, interpolated linearly to all pixels (size, columns)."""
    at = np.clip((np.arange(size) - _COARSE // 2) / _COARSE, 0, len(coarse) - 1)
    below = np.minimum(at.astype(np.intp), max(len(coarse) - 2, 0))
    share = (at - below).astype(np.float32)[:, None]
    rows: Image = coarse[below] * (1 - share) + coarse[np.minimum(below + 1, len(coarse) - 1)] * share
    return rows


def _changed(cement: SeenCement, before: SeenCement | None) -> NDArray[np.uint8]:
    """The subtraction; against an earlier one, what is new in it, and what was there already pale."""
    if before is None or before.subtracted.shape != cement.subtracted.shape:
        return cement.subtracted
    new = np.clip(cement.subtracted.astype(np.int16) - before.subtracted + NO_CHANGE, 0, 255).astype(np.uint8)
    older = before.detected & (new > NO_CHANGE - GREY_PER_MM)
    return np.where(older, np.uint8(_OLDER), new)


def _on_picture(values: NDArray, shot: Shot, outside: float) -> NDArray:
    """Values of the map's pixels on the picture's, where the patient lies now."""
    assert shot.cement is not None
    found = []
    for size, limit, shift in zip(shot.grey.shape, values.shape, shot.cement.shift, strict=True):
        detector = (np.arange(size) + 0.5) * shot.step
        index = np.floor(detector / shot.cement.step - shift).astype(np.intp)
        found.append((np.clip(index, 0, limit - 1), (index >= 0) & (index < limit)))
    (rows, row_known), (columns, column_known) = found
    taken: NDArray = values[rows[:, None], columns]
    taken[~row_known] = outside
    taken[:, ~column_known] = outside
    return taken


def _color_by_time(picture: RGB, times_s: NDArray, shown: NDArray[np.bool_], now_s: float) -> None:
    """Blend the color of when each pixel first held cement, from the first of all to now."""
    # A later moment's times lie in a replay's future.
    known = shown & (times_s <= now_s)
    if not known.any():
        return
    begin_s = float(times_s[known].min())
    share = (times_s[known] - begin_s) / max(now_s - begin_s, 1e-9)
    picture[known] = ((1 - _OPACITY) * picture[known] + _OPACITY * _time_color(share)).astype(np.uint8)


def _time_color(share: NDArray) -> NDArray[np.uint8]:
    stops = np.linspace(0.0, 1.0, len(_TIME_COLORS))
    channels = [np.interp(share, stops, channel) for channel in zip(*_TIME_COLORS, strict=True)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _outline(picture: RGB, shown: NDArray[np.bool_]) -> None:
    """A white line around the cement with a dark one around it, so that it is seen on every ground."""
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    # Only where there is cement: to widen a whole picture takes long.
    box = tuple(slice(max(one[0] - 4, 0), one[-1] + 5) for one in (rows, columns))
    part, inside = picture[box], shown[box]
    width = 1 + (shown.shape[1] >= _WIDE_COLUMNS)
    line, rim = widened(inside, width), widened(inside, width + 1)
    part[rim & ~line] = _BLACK
    part[line & ~inside] = _CEMENT_COLOR


def _put(picture: RGB, lines: Lines, shift: NDArray[np.intp]) -> None:
    at = lines.at + shift
    inside = ((at >= 0) & (at < picture.shape[:2])).all(axis=1)
    rows, columns = at[inside].T
    picture[rows, columns] = lines.colors[inside]


def _bytes(color: tuple[float, float, float]) -> Color:
    red, green, blue = (round(255 * one) for one in color)
    return red, green, blue
