"""Where source and detector stand: one record for every C-arm pose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import GeometryError
from ..geometry import FloatArray, check_rigid, invert_rigid, rigid, rotation_about, transform_points, unit


@dataclass(frozen=True)
class XrayGeometry:
    """One C-arm pose.

    Attributes:
        source_to_detector_mm: distance of the source from the detector plane.
        detector_pixels: columns, rows.
        pixel_spacing_mm: u along columns, v along rows.
        RASToDetector: rigid 4x4. Detector frame: origin at the centre of the top-left pixel, x along columns, y along
            rows, z from the detector towards the source, mm.
        source_in_detector_mm: the source in that frame.
    """

    source_to_detector_mm: float
    detector_pixels: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    RASToDetector: FloatArray
    source_in_detector_mm: tuple[float, float, float]

    @property
    def source_ras(self) -> FloatArray:
        return transform_points(invert_rigid(self.RASToDetector), self.source_in_detector_mm)

    @property
    def view_direction_ras(self) -> FloatArray:
        """Unit vector of the central ray, from the source to the detector."""
        return -self.RASToDetector[2, :3]

    def check(self) -> XrayGeometry:
        """This record, if a C-arm can stand so.

        Raises:
            GeometryError: naming what is impossible.
        """
        check_rigid(self.RASToDetector, "RASToDetector")
        if not (np.isfinite(self.pixel_spacing_mm).all() and min(self.pixel_spacing_mm) > 0):
            raise GeometryError(f"pixel_spacing_mm is {self.pixel_spacing_mm}; both must be positive")
        if min(self.detector_pixels) < 1:
            raise GeometryError(f"detector_pixels is {self.detector_pixels}; both must be at least 1")
        if not (np.isfinite(self.source_in_detector_mm).all() and self.source_in_detector_mm[2] > 0):
            raise GeometryError("the source lies behind the detector: source_in_detector_mm needs a positive z")
        if abs(self.source_in_detector_mm[2] - self.source_to_detector_mm) > 0.5:
            raise GeometryError(
                f"source_to_detector_mm is {self.source_to_detector_mm} but the source stands "
                f"{self.source_in_detector_mm[2]} mm before the detector"
            )
        return self

    def project(self, points_ras: ArrayLike) -> FloatArray:
        """Pixel coordinates (..., 2) as column u, row v of RAS points (..., 3).

        A point at or behind the source plane gives NaN.
        """
        points = transform_points(self.RASToDetector, points_ras)
        source = np.asarray(self.source_in_detector_mm)
        depth = source[2] - points[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(depth > 0, source[2] / depth, np.nan)
        on_detector = source[:2] + (points[..., :2] - source[:2]) * scale[..., None]
        return on_detector / self.pixel_spacing_mm

    def pixel_ras(self, pixels_uv: ArrayLike) -> FloatArray:
        """RAS points (..., 3) on the detector of pixel coordinates (..., 2)."""
        in_plane = np.asarray(pixels_uv, float) * self.pixel_spacing_mm
        in_detector = np.concatenate([in_plane, np.zeros((*in_plane.shape[:-1], 1))], axis=-1)
        return transform_points(invert_rigid(self.RASToDetector), in_detector)

    def resampled(self, columns: int) -> XrayGeometry:
        """The same field of view with another number of columns (rows follow)."""
        factor = self.detector_pixels[0] / columns
        rows = round(self.detector_pixels[1] / factor)
        spacing = (self.pixel_spacing_mm[0] * factor, self.pixel_spacing_mm[1] * self.detector_pixels[1] / rows)
        # The origin is the centre of the top-left pixel, which moves inwards as pixels grow.
        shift = [(spacing[axis] - self.pixel_spacing_mm[axis]) / 2 for axis in range(2)]
        OldToNew = rigid(np.eye(3), [-shift[0], -shift[1], 0])
        source = np.asarray(self.source_in_detector_mm) - [*shift, 0]
        return replace(
            self,
            detector_pixels=(columns, rows),
            pixel_spacing_mm=spacing,
            RASToDetector=OldToNew @ self.RASToDetector,
            source_in_detector_mm=(float(source[0]), float(source[1]), float(source[2])),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "coordinateSystem": "RAS",
            "source_to_detector_mm": self.source_to_detector_mm,
            "detector_pixels": list(self.detector_pixels),
            "pixel_spacing_mm": list(self.pixel_spacing_mm),
            "RASToDetector": np.asarray(self.RASToDetector).tolist(),
            "source_in_detector_mm": list(self.source_in_detector_mm),
        }

    @staticmethod
    def from_dict(record: dict[str, Any]) -> XrayGeometry:
        """The record of a geometry document; raises GeometryError when no C-arm can stand so."""
        columns, rows = record["detector_pixels"]
        u, v = record["pixel_spacing_mm"]
        x, y, z = record["source_in_detector_mm"]
        return XrayGeometry(
            source_to_detector_mm=float(record["source_to_detector_mm"]),
            detector_pixels=(int(columns), int(rows)),
            pixel_spacing_mm=(float(u), float(v)),
            RASToDetector=np.asarray(record["RASToDetector"], float),
            source_in_detector_mm=(float(x), float(y), float(z)),
        ).check()


@dataclass(frozen=True)
class CArm:
    """The hardware: distances and detector. The default is a mobile C-arm with a flat panel (REFERENCES [R12])."""

    source_to_detector_mm: float = 1020.0
    source_to_isocenter_mm: float = 620.0
    detector_pixels: tuple[int, int] = (1536, 1536)
    pixel_spacing_mm: tuple[float, float] = (0.194, 0.194)

    def pose(self, isocenter_ras: ArrayLike, view_direction_ras: ArrayLike, up_ras: ArrayLike) -> XrayGeometry:
        """The geometry that looks along `view_direction_ras` with `up_ras` towards the top of the image.

        Args:
            isocenter_ras: the RAS point in the middle of the image.
            view_direction_ras: from the source to the detector.
            up_ras: any direction that is not parallel to the view.
        """
        forward = unit(view_direction_ras)
        rows_axis = unit(np.dot(up_ras, forward) * forward - np.asarray(up_ras, float))
        towards_source = -forward
        columns_axis = np.cross(rows_axis, towards_source)
        rotation = np.stack([columns_axis, rows_axis, towards_source])
        columns, rows = self.detector_pixels
        middle = np.array(
            [(columns - 1) / 2 * self.pixel_spacing_mm[0], (rows - 1) / 2 * self.pixel_spacing_mm[1], 0.0]
        )
        isocenter_to_detector = self.source_to_detector_mm - self.source_to_isocenter_mm
        isocenter_in_detector = middle + [0, 0, isocenter_to_detector]
        translation = isocenter_in_detector - rotation @ np.asarray(isocenter_ras, float)
        return XrayGeometry(
            source_to_detector_mm=self.source_to_detector_mm,
            detector_pixels=self.detector_pixels,
            pixel_spacing_mm=self.pixel_spacing_mm,
            RASToDetector=rigid(rotation, translation),
            source_in_detector_mm=(float(middle[0]), float(middle[1]), self.source_to_detector_mm),
        ).check()

    def view(self, name: str, SacrumToRAS: ArrayLike) -> XrayGeometry:
        """A named view of the sacrum at the mean angles of REFERENCES section 5.

        Args:
            name: a key of `VIEW_ANGLES_DEG`.
            SacrumToRAS: rigid 4x4, axes left, posterior, superior of the sacrum.
        """
        if name not in VIEW_ANGLES_DEG:
            raise GeometryError(f"there is no view {name!r}; the views are {', '.join(VIEW_ANGLES_DEG)}")
        frame = np.asarray(SacrumToRAS, float)
        tilt_deg, oblique_deg = VIEW_ANGLES_DEG[name]
        # World axes, not the sacrum's: the angles of the literature are against the patient on the table.
        left, anterior, superior = np.array([-1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])
        turn = rotation_about(superior, oblique_deg) @ rotation_about(left, tilt_deg)
        # The patient lies prone with the tube below the table: rays enter from the front.
        direction = turn @ -anterior
        target = transform_points(frame, [0.0, 0.0, -25.0])
        return self.pose(target, direction, turn @ superior)


#: Tilt towards the feet (positive: outlet) or head (negative: inlet), and turn about the body axis, both in degrees.
#: Inlet 20.5 and outlet 42.8 are means of REFERENCES [R67]; a mean fails in many people, so they are a start only.
VIEW_ANGLES_DEG: dict[str, tuple[float, float]] = {
    "ap": (0.0, 0.0),
    "outlet": (42.8, 0.0),
    "inlet": (-20.5, 0.0),
    "lateral": (0.0, 90.0),
    "oblique-left": (0.0, 30.0),
    "oblique-right": (0.0, -30.0),
}
