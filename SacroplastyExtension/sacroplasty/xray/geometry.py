"""Where source and detector stand: one record for every C-arm pose, and the named views of the sacrum.

The detector frame is right-handed with x to the right and y downwards in the image, so its z axis, which points to the
source, runs into the screen: an image is seen from behind the detector. The views here put the head up and the
patient's right on the left in AP, the face towards the left in the lateral; so the source stands behind the patient in
AP and to the right in the lateral. An image whose beam runs the other way shows the mirror image; mirror its columns
before it is paired with such a record (`seen_from_source` and `mirror_columns` in `images.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..documents import read_document, write_document
from ..errors import GeometryError
from ..geometry import FloatArray, angle_between_deg, check_rigid, invert_rigid, rigid, transform_points, unit

#: A source nearer to the detector than this is no C-arm but a record in another unit [mm].
_SHORTEST_SOURCE_DISTANCE_MM = 100.0


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

    @property
    def positioner_angles_deg(self) -> tuple[float, float]:
        """Where the detector stands, as DICOM's positioner primary and secondary angle (PS3.3 C.8.7.5.1.2).

        Primary: in the transverse plane, 0 before the chest, positive towards the patient's left (LAO), -180 to 180.
        Secondary: out of that plane towards the head (CRA), -90 to 90. Both are against the patient, so they do not
        depend on how the patient lies: with the tube under a prone patient the detector stands behind, at 180.
        """
        right, anterior, superior = self.view_direction_ras
        # Adding zero turns -0 into 0, so that straight behind is 180 and not -180.
        primary = np.degrees(np.arctan2(-right + 0.0, anterior))
        return float(primary), float(np.degrees(np.arcsin(np.clip(superior, -1, 1))))

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
        if not np.isfinite(self.source_in_detector_mm).all():
            raise GeometryError("source_in_detector_mm holds numbers that are not finite; calibrate the C-arm again")
        distance = self.source_in_detector_mm[2]
        if distance <= 0:
            raise GeometryError("the source lies behind the detector: source_in_detector_mm needs a positive z")
        if distance < _SHORTEST_SOURCE_DISTANCE_MM:
            raise GeometryError(f"the source stands {distance:g} mm before the detector; is the record in mm?")
        if not abs(distance - self.source_to_detector_mm) <= 0.5:
            raise GeometryError(
                f"source_to_detector_mm is {self.source_to_detector_mm} but the source stands "
                f"{distance:g} mm before the detector"
            )
        return self

    def project(self, points_ras: ArrayLike) -> FloatArray:
        """Pixel coordinates (..., 2) as column u, row v of RAS points (..., 3).

        A point at or behind the source plane gives NaN.
        """
        points = transform_points(self.RASToDetector, points_ras)
        source = np.asarray(self.source_in_detector_mm)
        depth = source[2] - points[..., 2]
        scale = np.divide(source[2], depth, out=np.full_like(depth, np.nan), where=depth > 0)
        on_detector = source[:2] + (points[..., :2] - source[:2]) * scale[..., None]
        return on_detector / self.pixel_spacing_mm

    @property
    def projection_matrix(self) -> FloatArray:
        """3x4: maps RAS (x, y, z, 1) to (w u, w v, w) with the depth w = 1 on the detector, w > 0 before the source.

        Its left 3x3 part has a negative determinant, because the image is seen from behind the detector.
        """
        x, y, distance = self.source_in_detector_mm
        du, dv = self.pixel_spacing_mm
        from_detector = np.array(
            [[1 / du, 0, -x / distance / du, 0], [0, 1 / dv, -y / distance / dv, 0], [0, 0, -1 / distance, 1]]
        )
        return from_detector @ self.RASToDetector

    @staticmethod
    def from_projection_matrix(
        matrix: ArrayLike, detector_pixels: tuple[int, int], pixel_spacing_mm: tuple[float, float]
    ) -> XrayGeometry:
        """The geometry of a 3x4 projection matrix as a calibration gives it, of any positive scale.

        The matrix alone does not tell how large a pixel is, so the spacing has to be known.

        Args:
            matrix: w > 0 for points between source and detector, pixels as seen from behind the detector.

        Raises:
            GeometryError: for a matrix that no such detector can have: skewed, of other proportions, or seen from the
                source (mirror the image first).
        """
        array = np.asarray(matrix, float)
        if array.shape != (3, 4) or not np.isfinite(array).all():
            raise GeometryError("a projection matrix is 3x4 and holds finite numbers only")
        du, dv = pixel_spacing_mm
        if not (np.isfinite([du, dv]).all() and min(du, dv) > 0):
            raise GeometryError(f"pixel_spacing_mm is {pixel_spacing_mm}; both must be positive")
        turned = array[:, :3]
        size = float(np.linalg.norm(turned[2]))
        determinant = float(np.linalg.det(turned))
        if not abs(determinant) > 1e-12 * max(float(np.abs(turned).max()), 1e-300) ** 3:
            raise GeometryError("the projection matrix is singular; calibrate the C-arm again")
        if determinant > 0:
            raise GeometryError(
                "the projection matrix belongs to an image seen from the source, or its depths are negative; mirror "
                "the columns (u becomes columns - 1 - u) or turn its sign round"
            )
        scaled = array / size
        source = -np.linalg.solve(scaled[:, :3], scaled[:, 3])
        forward = scaled[2, :3]
        u0, v0 = scaled[0, :3] @ forward, scaled[1, :3] @ forward
        across, down = scaled[0, :3] - u0 * forward, scaled[1, :3] - v0 * forward
        distances = float(np.linalg.norm(across)) * du, float(np.linalg.norm(down)) * dv
        if abs(unit(across) @ unit(down)) > 1e-3 or abs(distances[0] / distances[1] - 1) > 1e-3:
            raise GeometryError(
                f"the projection matrix does not fit pixels of {du:g} x {dv:g} mm: they would be skewed, or the source "
                f"{distances[0]:.0f} mm away by columns and {distances[1]:.0f} mm by rows"
            )
        distance = (distances[0] + distances[1]) / 2
        # Orthonormal to the last digit.
        x_axis = unit(across)
        rotation = np.stack([x_axis, np.cross(-forward, x_axis), -forward])
        in_detector = np.array([u0 * du, v0 * dv, distance])
        return XrayGeometry(
            source_to_detector_mm=distance,
            detector_pixels=detector_pixels,
            pixel_spacing_mm=(float(du), float(dv)),
            RASToDetector=rigid(rotation, in_detector - rotation @ source),
            source_in_detector_mm=(float(in_detector[0]), float(in_detector[1]), distance),
        ).check()

    def pixel_ras(self, pixels_uv: ArrayLike) -> FloatArray:
        """RAS points (..., 3) on the detector of pixel coordinates (..., 2)."""
        in_plane = np.asarray(pixels_uv, float) * self.pixel_spacing_mm
        in_detector = np.concatenate([in_plane, np.zeros((*in_plane.shape[:-1], 1))], axis=-1)
        return transform_points(invert_rigid(self.RASToDetector), in_detector)

    def window_around(
        self, points_ras: ArrayLike, region: tuple[slice, slice] | None = None
    ) -> tuple[slice, slice] | None:
        """The part of the detector, or of a region of it, that holds the shadows of all points (n, 3).

        All of it when a point lies behind the source, so that nothing is known; None when no shadow falls on it.

        Args:
            region: rows and columns, as is the answer.
        """
        columns, rows = self.detector_pixels
        down, across = region or (slice(0, rows), slice(0, columns))
        pixels = self.project(points_ras)
        if np.isnan(pixels).any():
            return down, across
        first, last = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0)) + 1
        u0, u1 = max(int(first[0]), across.start), min(int(last[0]), across.stop)
        v0, v1 = max(int(first[1]), down.start), min(int(last[1]), down.stop)
        return (slice(v0, v1), slice(u0, u1)) if u0 < u1 and v0 < v1 else None

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
        """The record of a geometry document and of image metadata."""
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
        """The geometry of such a record, from a file or a device.

        Raises:
            GeometryError: when a part is missing, or no C-arm can stand so.
        """
        if record.get("coordinateSystem", "RAS") != "RAS":
            raise GeometryError(f"the X-ray geometry is in {record['coordinateSystem']!r}; convert it to RAS")
        try:
            columns, rows = record["detector_pixels"]
            u, v = record["pixel_spacing_mm"]
            x, y, z = record["source_in_detector_mm"]
            geometry = XrayGeometry(
                source_to_detector_mm=float(record["source_to_detector_mm"]),
                detector_pixels=(int(columns), int(rows)),
                pixel_spacing_mm=(float(u), float(v)),
                RASToDetector=np.asarray(record["RASToDetector"], float),
                source_in_detector_mm=(float(x), float(y), float(z)),
            )
        except KeyError as error:
            raise GeometryError(f"the X-ray geometry lacks {error.args[0]}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise GeometryError(f"the X-ray geometry cannot be read: {error}") from None
        return geometry.check()


def write_geometry(path: Path, geometry: XrayGeometry) -> None:
    """Write a geometry document (`geometry.json`)."""
    write_document(path, "geometry", geometry.check().to_dict())


def read_geometry(path: Path) -> XrayGeometry:
    """Read a geometry document.

    Raises:
        DocumentError: for a file that is none.
        GeometryError: when no C-arm can stand so.
    """
    return XrayGeometry.from_dict(read_document(path, "geometry"))


@dataclass(frozen=True)
class CArm:
    """The hardware: distances and detector.

    The default is a mobile C-arm with a flat panel of 30 cm: distance to the detector, pixels and spacing are those of
    the Siemens Cios Fusion in the xReg library; the isocentre's place is a choice that leaves 40 cm for the patient.
    Others are in `presets.py`.

    Attributes:
        field_diameter_mm: of the circle that an image intensifier sees, on its entrance plane; None when the whole
            rectangle shows the patient.
    """

    source_to_detector_mm: float = 1020.0
    source_to_isocenter_mm: float = 620.0
    detector_pixels: tuple[int, int] = (1536, 1536)
    pixel_spacing_mm: tuple[float, float] = (0.194, 0.194)
    field_diameter_mm: float | None = None

    def pose(self, isocenter_ras: ArrayLike, view_direction_ras: ArrayLike, up_ras: ArrayLike) -> XrayGeometry:
        """The geometry that looks along `view_direction_ras` with `up_ras` towards the top of the image.

        Args:
            isocenter_ras: the RAS point in the middle of the image.
            view_direction_ras: from the source to the detector.
            up_ras: any direction that is not parallel to the view.

        Raises:
            GeometryError: for directions without length, or an up direction parallel to the view.
        """
        forward = unit(view_direction_ras)
        if not 0.01 < angle_between_deg(forward, up_ras) < 179.99:
            raise GeometryError("the up direction is parallel to the view, so the image could be turned any way")
        rows_axis = unit(np.dot(up_ras, forward) * forward - np.asarray(up_ras, float))
        towards_source = -forward
        columns_axis = np.cross(rows_axis, towards_source)
        rotation = np.stack([columns_axis, rows_axis, towards_source])
        columns, rows = self.detector_pixels
        middle = np.array(
            [(columns - 1) / 2 * self.pixel_spacing_mm[0], (rows - 1) / 2 * self.pixel_spacing_mm[1], 0.0]
        )
        isocenter_to_detector = self.source_to_detector_mm - self.source_to_isocenter_mm
        isocenter_in_detector = np.add(middle, [0, 0, isocenter_to_detector])
        translation = isocenter_in_detector - rotation @ np.asarray(isocenter_ras, float)
        return XrayGeometry(
            source_to_detector_mm=self.source_to_detector_mm,
            detector_pixels=self.detector_pixels,
            pixel_spacing_mm=self.pixel_spacing_mm,
            RASToDetector=rigid(rotation, translation),
            source_in_detector_mm=(float(middle[0]), float(middle[1]), self.source_to_detector_mm),
        ).check()

    def at_positioner_angles(
        self, isocenter_ras: ArrayLike, primary_deg: float, secondary_deg: float, up_ras: ArrayLike = (0.0, 0.0, 1.0)
    ) -> XrayGeometry:
        """The geometry at DICOM's positioner angles (see `XrayGeometry.positioner_angles_deg`), head up by default.

        Raises:
            GeometryError: as `pose`; at a secondary angle of 90 or -90 degrees the head cannot be up.
        """
        primary, secondary = np.radians([primary_deg, secondary_deg])
        direction = [
            -np.cos(secondary) * np.sin(primary),
            np.cos(secondary) * np.cos(primary),
            np.sin(secondary),
        ]
        return self.pose(isocenter_ras, direction, up_ras)

    def view(self, name: str, SacrumToRAS: ArrayLike) -> XrayGeometry:
        """A named view of the sacrum at the mean angles of `VIEW_ANGLES_DEG`, centred on the sacrum.

        Args:
            name: a key of `VIEW_ANGLES_DEG`.
            SacrumToRAS: rigid 4x4, axes left, posterior, superior of the sacrum.
        """
        if name not in VIEW_ANGLES_DEG:
            raise GeometryError(f"there is no view {name!r}; the views are {', '.join(VIEW_ANGLES_DEG)}")
        frame = check_rigid(SacrumToRAS, "SacrumToRAS")
        primary, secondary = np.radians(VIEW_ANGLES_DEG[name])
        # The angles of the literature are against the table, so the head's direction is the scanner's; the left-right
        # axis is the sacrum's, so that a pelvis turned on the table still gives a true AP and a true lateral.
        left = frame[:3, 0]
        superior = unit(np.array([0, 0, 1.0]) - left[2] * left)
        anterior = np.cross(left, superior)
        level = np.cos(primary) * anterior + np.sin(primary) * left
        direction = np.cos(secondary) * level + np.sin(secondary) * superior
        return self.pose(transform_points(frame, SACRUM_CENTER_MM), direction, superior)


#: Middle of the sacrum in its own frame (left, posterior, superior of the S1 endplate's centre), mm.
SACRUM_CENTER_MM = (0.0, 10.0, -35.0)

#: Where the detector stands, as DICOM's positioner angles in degrees: towards the patient's left (LAO), towards the
#: head (CRA). At zero it is in front of the patient. Outlet 42.8 and inlet 20.5 are means of CT measurements
#: (PMC4633422); they range over 30 to 59 and 7 to 37, so a mean is a start only. The oblique angle is a start too.
VIEW_ANGLES_DEG: dict[str, tuple[float, float]] = {
    "ap": (0.0, 0.0),
    "outlet": (0.0, -42.8),
    "inlet": (0.0, 20.5),
    "lateral": (90.0, 0.0),
    "oblique-left": (30.0, 0.0),
    "oblique-right": (-30.0, 0.0),
}
