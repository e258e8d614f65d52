"""How little cement a view could show, told before any is given, and which view would show more.

Behind both hips little of the beam is left, and scatter, which is even, covers what cement takes from it. The CT tells
how much of the beam each ray keeps on its way. Where the picture follows that it is beam; what is smooth in it beside
may be scatter. So the picture around the tip is taken for a factor times the beam by the CT, and a smooth surface.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..geometry import FloatArray, angle_between_deg, unit
from ..xray.geometry import VIEW_ANGLES_DEG, CArm, XrayGeometry
from ..xray.project import ProjectableVolume, pixel_line_integrals
from .background import SMOOTHING, Background
from .cement_map import CORE_PIXELS, CORE_SIGMA
from .leaks import pixel_size_mm

#: A view has to show a ball of so much cement at the tip [mL]. In training the views that the pump's first millilitre
#: told to be too dark showed 0.08 to 0.26 mL, the others 0.03 mL or less.
LEAST_SHOWN_ML = 0.05
#: The picture is compared with the CT so far around the tip, and the cement's place is this [mm in the patient].
_AROUND_MM, _AT_TIP_MM = 30.0, 5.0
#: So many pixels are needed for that, and no more are used.
_FEWEST_PIXELS, _MOST_PIXELS = 200, 4000
#: The share is told on the safe side, by so many standard deviations.
_SURE = 2.0
#: Automatic exposure keeps the middle half of a picture as bright as it is. So many rays each way tell how much of the
#: beam it gets, and the tip's surroundings.
_EXPOSED_RAYS, _TIP_RAYS = 32, 7
#: For other views no smaller share of the cement is believed to be shown in this one.
_LEAST_SHARE = 0.02
#: Two views tell the depth of what they show when they are so far apart, and so near to a dark view another is dark
#: too [degrees].
_LEAST_APART_DEG, _AS_DARK_DEG = 45.0, 20.0


class DarkViewError(ImageError):
    """A view is too dark to show the cement at the tip.

    Attributes:
        instead: the view that would show it, a key of `VIEW_ANGLES_DEG`; empty when none would.
    """

    def __init__(self, message: str, instead: str) -> None:
        super().__init__(message)
        self.instead = instead


@dataclass(frozen=True)
class Visibility:
    """What a view could show of cement at the tip.

    Attributes:
        share: of the cement's attenuation that the greys would show, at least.
        sigma: of the logarithm of a later frame's signal there.
        smallest_ml: ball of cement that would stand out as `cement_map` asks for; infinite when nothing would.
    """

    share: float
    sigma: float
    smallest_ml: float

    @property
    def dark(self) -> bool:
        """Too dark to be one of the monitor's views."""
        return not self.smallest_ml <= LEAST_SHOWN_ML


@dataclass(frozen=True)
class Sight:
    """What of a patient stands between C-arm and cement.

    Attributes:
        attenuation: of the patient by the CT, 1/mm.
        tip_ras: where cement leaves the cannula.
        cement_per_mm: linear attenuation of the cement.
    """

    attenuation: ProjectableVolume
    tip_ras: FloatArray
    cement_per_mm: float

    def through(self, background: Background) -> Visibility:
        """What a view that was learned could show."""
        geometry = background.geometry
        pixel_mm = pixel_size_mm(geometry, self.tip_ras)
        pixels = np.argwhere(background.usable & ~background.tools)
        away_mm = (pixels[:, ::-1] - geometry.project(self.tip_ras)) * pixel_mm
        near = np.flatnonzero(np.linalg.norm(away_mm, axis=1) <= _AROUND_MM)
        at_tip = np.linalg.norm(away_mm[near], axis=1) <= _AT_TIP_MM
        if len(near) < _FEWEST_PIXELS or not at_tip.any():
            return Visibility(0.0, math.nan, math.inf)
        sigma = float(np.median(background.sigma[tuple(pixels[near[at_tip]].T)]))
        near = near[:: -(-len(near) // _MOST_PIXELS)]
        at_tip = np.linalg.norm(away_mm[near], axis=1) <= _AT_TIP_MM
        beam = self._beam(geometry, pixels[near, ::-1])
        signal = np.exp(background.log_signal.values[tuple(pixels[near].T)].astype(float))
        beam, signal = beam / beam.mean(), signal / signal.mean()
        x, y = away_mm[near].T / _AROUND_MM
        # What errs in dark pixels errs by less.
        smooth = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1) / signal[:, None]
        both = np.stack([beam / signal, np.ones_like(x)], axis=1)
        expected, shown = (both - smooth @ np.linalg.lstsq(smooth, both, rcond=None)[0]).T
        # Where the beam itself is smooth, nothing is told.
        power = max(float(expected @ expected), 1e-12)
        factor = float(expected @ shown) / power
        # Neighbors err together.
        deviation = SMOOTHING * float((shown - factor * expected).std()) / math.sqrt(power)
        factor -= _SURE * deviation
        share = float(np.clip(factor * beam[at_tip].mean() / signal[at_tip].mean(), 0.0, 1.0))
        return Visibility(share, sigma, smallest_ball_ml(share, sigma, pixel_mm, self.cement_per_mm))

    def better_view(self, seen: Visibility, geometry: XrayGeometry, others: Sequence[XrayGeometry]) -> str:
        """The named view that would show the cement where that of a geometry does not; empty when none would.

        Beside other views it is the one that stands most nearly across to them, since that tells depth best; else the
        one that shows most. Scatter is taken for the same share of what exposes the picture as in the view that was
        seen.
        """
        bright = self._brightness(geometry)
        share = max(seen.share, _LEAST_SHARE)
        scatter = bright * (1 - share) / share
        pixel_mm = pixel_size_mm(geometry, self.tip_ras)
        # What is in the middle of the picture stays there.
        middle = geometry.pixel_ras((np.array(geometry.detector_pixels) - 1) / 2)
        beam = unit(middle - geometry.source_ras)
        distance_mm = float((self.tip_ras - geometry.source_ras) @ beam)
        aim = geometry.source_ras + distance_mm * beam
        c_arm = CArm(geometry.source_to_detector_mm, distance_mm, geometry.detector_pixels, geometry.pixel_spacing_mm)
        found: list[tuple[float, str]] = []
        for name, angles in VIEW_ANGLES_DEG.items():
            candidate = c_arm.at_positioner_angles(aim, *angles)
            if _apart_deg(candidate, geometry) < _AS_DARK_DEG:
                continue
            apart_deg = min((_apart_deg(candidate, other) for other in others), default=math.nan)
            there = self._brightness(candidate)
            sigma = seen.sigma * math.sqrt((bright + scatter) / (there + scatter))
            smallest_ml = smallest_ball_ml(there / (there + scatter), sigma, pixel_mm, self.cement_per_mm)
            if smallest_ml <= LEAST_SHOWN_ML and not apart_deg < _LEAST_APART_DEG:
                found.append((-apart_deg if others else smallest_ml, name))
        return min(found)[1] if found else ""

    def _brightness(self, geometry: XrayGeometry) -> float:
        """Beam at the tip over that of the picture's middle half."""
        size = np.array(geometry.detector_pixels)
        reach = _AT_TIP_MM / pixel_size_mm(geometry, self.tip_ras)
        tip = geometry.project(self.tip_ras)
        at_tip = self._beam(geometry, _pixel_grid(tip - reach, tip + reach, _TIP_RAYS))
        exposed = self._beam(geometry, _pixel_grid(size / 4, 3 * size / 4, _EXPOSED_RAYS))
        return float(at_tip.mean() / exposed.mean())

    def _beam(self, geometry: XrayGeometry, pixels_uv: NDArray) -> FloatArray:
        """Share of the beam that reaches pixels (n, 2)."""
        return np.exp(-pixel_line_integrals(self.attenuation, geometry, pixels_uv).astype(float))


def check_bright(name: str, background: Background, sight: Sight, others: Sequence[XrayGeometry]) -> Visibility:
    """What a view could show, if that is enough.

    Args:
        others: views that are watched beside it.

    Raises:
        DarkViewError: when it is too dark, with a better one where there is any.
    """
    seen = sight.through(background)
    if not seen.dark:
        return seen
    instead = sight.better_view(seen, background.geometry, others)
    take = f"take the {instead} view instead, " if instead else ""
    raise DarkViewError(
        f"view {name}: too dark to show {LEAST_SHOWN_ML:g} mL of cement at the tip, {seen.share:.0%} of whose "
        f"attenuation would be seen; {take}collimate, or raise the dose",
        instead,
    )


def smallest_ball_ml(share: float, sigma: float, pixel_mm: float, cement_per_mm: float) -> float:
    """The smallest ball of cement whose shadow stands out of the noise in as many pixels as `cement_map` asks for.

    Args:
        share: of its attenuation that is seen.
        sigma: of the logarithm of a pixel.
    """
    if not share > 0:
        return math.inf
    # The chord at the rim of a disc of that many pixels.
    half_chord_mm = CORE_SIGMA * sigma / (2 * share * cement_per_mm)
    radius_mm = math.hypot(half_chord_mm, pixel_mm * math.sqrt(CORE_PIXELS / math.pi))
    return 4 / 3 * math.pi * radius_mm**3 / 1000


def _pixel_grid(first: NDArray, last: NDArray, count: int) -> FloatArray:
    """So many pixels each way (n, 2) from one corner to the other."""
    u, v = np.linspace(first, last, count).T
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)


def _apart_deg(one: XrayGeometry, other: XrayGeometry) -> float:
    """Angle between two beams, whichever way they run."""
    angle = angle_between_deg(one.view_direction_ras, other.view_direction_ras)
    return min(angle, 180 - angle)
