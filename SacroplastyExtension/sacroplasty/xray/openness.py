"""How much of each sacral foramen an X-ray beam sees through: rays from the source that meet no bone on their way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..anatomy.foramina import LOW_CONFIDENCE
from ..anatomy.frame import sample_voxels
from ..anatomy.labels import SIDES
from ..anatomy.model import Anatomy, Foramen, Opening
from ..errors import GeometryError
from ..geometry import FloatArray, unit

#: The foramina that an outlet view is to show.
OUTLET_LEVELS = ("s1", "s2", "s3")
#: Distance of the rays at the foramen, and of the points on a ray [mm]: finer ones move no best angle by 0.1 degrees.
_RAY_MM, _POINT_MM = 0.6, 0.8
#: Rays start and end this far beyond the openings: rims and crests before and behind them count [mm].
_BEYOND_MM = 12.0
#: Rays farther outside of an opening's rim than this do not belong to the foramen [mm].
_RIM_MM = 2.0
#: A foramen whose open area is smaller even along its own channel is closed in the label map [mm^2].
_CLOSED_MM2 = 3.0


@dataclass(frozen=True)
class _Channel:
    """A foramen, and the rays (as points in the plane through its middle) that may pass through it."""

    foramen: Foramen
    middle: FloatArray
    half_length_mm: float
    straight_area_mm2: float = 0.0

    @property
    def forward(self) -> FloatArray:
        """From the posterior to the anterior opening."""
        return unit(self.foramen.anterior.center_ras - self.foramen.posterior.center_ras)


class OpenForamina:
    """The foramina of one patient, seen from any source."""

    def __init__(
        self, anatomy: Anatomy, source_distance_mm: float = 620.0, levels: tuple[str, ...] = OUTLET_LEVELS
    ) -> None:
        """
        Args:
            source_distance_mm: from the source to the patient, for the view straight down each channel.
            levels: which foramina are looked at.

        Raises:
            GeometryError: when the bone labels show none of them as a hole.
        """
        self.left = anatomy.SacrumToRAS[:3, 0]
        self._sacrum = anatomy.bones.like(anatomy.bone("sacrum"))
        self.channels: dict[str, _Channel] = {}
        #: Names of foramina that cannot be judged: not found, not seen, or closed in the label map.
        self.unknown: list[str] = []
        for name in (f"foramen_{level}_{side}" for level in levels for side in SIDES):
            foramen = anatomy.foramina.get(name)
            if foramen is None or not anatomy.confidence.get(name, 0.0) > LOW_CONFIDENCE:
                self.unknown.append(name)
                continue
            front, back = foramen.anterior.center_ras, foramen.posterior.center_ras
            channel = _Channel(foramen, (front + back) / 2, float(np.linalg.norm(front - back)) / 2)
            area = self._area(channel, channel.middle - source_distance_mm * channel.forward)
            if area < _CLOSED_MM2:
                self.unknown.append(name)
            else:
                self.channels[name] = _Channel(foramen, channel.middle, channel.half_length_mm, area)
        if not self.channels:
            raise GeometryError(
                "the bone labels show no sacral foramen as a hole, so no view can be found that opens it"
            )
        self.center_ras: FloatArray = np.mean([channel.middle for channel in self.channels.values()], axis=0)
        self.forward: FloatArray = unit(np.sum([channel.forward for channel in self.channels.values()], axis=0))

    def shares(self, source_ras: FloatArray) -> dict[str, float]:
        """By name, the open area that the source sees, as a share of the area seen straight down the channel."""
        return {
            name: self._area(channel, source_ras) / channel.straight_area_mm2 for name, channel in self.channels.items()
        }

    def _area(self, channel: _Channel, source_ras: FloatArray) -> float:
        """Area of the beam [mm^2], at a right angle to it, that passes the foramen without meeting bone."""
        rays, distance = self._rays(channel, source_ras)
        if not len(rays):
            return 0.0
        reach = channel.half_length_mm + _BEYOND_MM
        along = np.arange(distance - reach, distance + reach, _POINT_MM)
        points = source_ras + rays[:, None, :] * along[:, None]
        kji = np.moveaxis(self._sacrum.kji_of(points), -1, 0)
        thickest = sample_voxels(self._sacrum.voxels, kji).max(axis=-1)
        # Half a voxel of bone is its surface. A ray beside it counts in part, so that the area changes steadily.
        voxel_mm = float(np.cbrt(self._sacrum.voxel_volume_ml * 1000))
        clear = np.clip((0.5 - thickest) * voxel_mm / _RAY_MM + 0.5, 0.0, 1.0)
        return float(clear.sum()) * _RAY_MM**2

    def _rays(self, channel: _Channel, source_ras: FloatArray) -> tuple[FloatArray, float]:
        """Unit directions (n, 3) from the source through both openings, and the distance to the foramen's middle."""
        towards = channel.middle - source_ras
        distance = float(np.linalg.norm(towards))
        towards = towards / distance
        across = (
            unit(np.cross(towards, self.left))
            if abs(towards @ self.left) < 0.99
            else unit(np.cross(towards, [0, 0, 1.0]))
        )
        along = np.cross(towards, across)
        openings = (channel.foramen.anterior, channel.foramen.posterior)
        half = max(max(opening.width_mm, opening.height_mm) for opening in openings) / 2 + _RIM_MM
        offsets = np.arange(-half, half + _RAY_MM / 2, _RAY_MM)
        grid = offsets[:, None, None] * across + offsets[None, :, None] * along
        rays = (channel.middle + grid - source_ras).reshape(-1, 3)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        inside = np.logical_and.reduce([self._passes(opening, source_ras, rays) for opening in openings])
        return rays[inside], distance

    def _passes(self, opening: Opening, source_ras: FloatArray, rays: FloatArray) -> NDArray[np.bool_]:
        """Which rays pass within an opening's rim, or close beside it."""
        normal = opening.normal_ras
        steep = rays @ normal
        steep = np.where(np.abs(steep) < 1e-6, 1e-6, steep)
        hit = source_ras + rays * (((opening.center_ras - source_ras) @ normal) / steep)[:, None] - opening.center_ras
        sideways = unit(self.left - (self.left @ normal) * normal)
        upwards = np.cross(normal, sideways)
        width, height = opening.width_mm / 2 + _RIM_MM, opening.height_mm / 2 + _RIM_MM
        return (hit @ sideways / width) ** 2 + (hit @ upwards / height) ** 2 <= 1.0
