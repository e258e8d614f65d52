"""Cement that was given against what the views show: what is missing, and what cannot be cement."""

from __future__ import annotations

import math

#: Less is not told missing [mL], nor fewer standard deviations of the volume that is seen.
_LEAST_MISSING_ML, _MISSING_SIGMA = 0.5, 3.0
#: What is missing has to be so for this long: of two views one may be older, and a movement may hide cement [s].
_MISSING_S = 3.0
#: So little is as good as nothing given; and what is seen then, from so much on, is no cement [mL].
_NOTHING_ML, FOREIGN_ML = 0.05, 0.2


class MissingCement:
    """Whether much of what was given has been seen nowhere for some time: in a vein, out of the picture, behind steel.

    The route of such cement is not known, and 0.1 mL of it are far below what this can tell.
    """

    def __init__(self) -> None:
        self._since_s = math.nan

    def update(self, missing_ml: float, sd_ml: float, now_s: float) -> bool:
        """Take in what is missing now; NaN for not known, which tells nothing."""
        if not (missing_ml > _LEAST_MISSING_ML and missing_ml > _MISSING_SIGMA * sd_ml):
            self._since_s = math.nan
        elif math.isnan(self._since_s):
            self._since_s = now_s
        return bool(now_s - self._since_s >= _MISSING_S)


def nothing_given(given_ml: float) -> bool:
    """Whether cement cannot be seen yet: what looks like it is an inflated balloon, an instrument, a hand."""
    return given_ml < _NOTHING_ML
