"""Volume, flow and pressure over time as lines on a small picture: where each point goes, for whoever draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .injection_session import Sample

#: Points drawn at most, so that a long injection is drawn as quickly as a short one.
_MOST_POINTS = 240

Point = tuple[int, int]


@dataclass(frozen=True)
class Axes:
    """A picture's pixels: the plot's left, top, right and bottom edge, y downwards, and what they stand for."""

    left: int
    top: int
    right: int
    bottom: int
    begin_s: float
    end_s: float
    highest: float

    def at(self, time_s: float, value: float) -> Point:
        """Pixel of a moment and value, kept within the plot."""
        span_s = max(self.end_s - self.begin_s, 1e-9)
        x = self.left + (time_s - self.begin_s) / span_s * (self.right - self.left)
        y = self.bottom - value / self.highest * (self.bottom - self.top)
        return round(min(max(x, self.left), self.right)), round(min(max(y, self.top), self.bottom))

    def lines(self, times_s: Sequence[float], values: Sequence[float]) -> list[tuple[Point, Point]]:
        """The pieces of the curve; where a value is not known there is none."""
        every = max(1, math.ceil(len(times_s) / _MOST_POINTS))
        # The newest moment is always among those that are drawn.
        chosen = list(zip(times_s, values, strict=True))[::-1][::every][::-1]
        points = [self.at(time_s, value) if math.isfinite(value) else None for time_s, value in chosen]
        return [(first, second) for first, second in pairwise(points) if first is not None and second is not None]


def since_first_flow(samples: Sequence[Sample]) -> list[Sample]:
    """The samples from shortly before cement first moved; the last half minute as long as none has."""
    if not samples:
        return []
    moved_s = next((one.time_s for one in samples if one.rate_ml_s > 0 or one.given_ml > 0), samples[-1].time_s - 25.0)
    return [one for one in samples if one.time_s >= moved_s - 5.0]


def axes_of(samples: Sequence[Sample], values: Iterable[float], least: float, box: tuple[int, int, int, int]) -> Axes:
    """Axes that hold all samples and values, from zero to a round number.

    Args:
        least: the highest value is at least this.
        box: left, top, right and bottom in pixels.
    """
    highest = max([least, *(value for value in values if math.isfinite(value))])
    power = 10.0 ** math.floor(math.log10(highest))
    rounded = next(step * power for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= highest - 1e-9)
    begin_s = samples[0].time_s if samples else 0.0
    end_s = max(samples[-1].time_s if samples else 0.0, begin_s + 30.0)
    return Axes(*box, begin_s=begin_s, end_s=end_s, highest=rounded)
