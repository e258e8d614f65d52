"""The distortion of an image intensifier, as calibrated with a plate of beads (see `bead_grid`), taken out of frames.

Each direction's displacement is a polynomial of fifth degree in the place, which holds pincushion and S-shape together.
Where the middle of the picture is seen, and how large and how turned things are there, is what the C-arm's geometry
says: the rest of the picture is brought to fit its middle.

The earth's field turns the S-shape with the C-arm: a calibration holds for the pose and the field size in which its
picture was taken, and for others as far as a second picture shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..documents import read_document, write_document
from ..errors import ImageError
from ..geometry import FloatArray

#: Of the polynomial.
DEGREE = 5
_POWERS = tuple((i, total - i) for total in range(DEGREE + 1) for i in range(total + 1))
TERMS = len(_POWERS)


@dataclass(frozen=True)
class Distortion:
    """Where an intensifier shows what belongs elsewhere.

    Places are in half widths of the picture from its middle, so that it holds for the same field in any number of
    pixels.

    Attributes:
        detector_pixels: columns and rows of the picture that it was made from.
        coefficients: (2, TERMS) of the displacement along columns and rows.
        radius: how far from the middle beads told it; farther out the displacement stays what it is there.
        rest_pixels: root mean square distance of the beads from it.
        beads: that it was made from.
    """

    detector_pixels: tuple[int, int]
    coefficients: FloatArray
    radius: float
    rest_pixels: float
    beads: int

    def seen(self, ideal_uv: ArrayLike, detector_pixels: tuple[int, int] | None = None) -> FloatArray:
        """Where pixels (..., 2) of an undistorted picture are seen.

        Args:
            detector_pixels: of the picture; by default of the one that the calibration was made from.
        """
        columns, rows = detector_pixels or self.detector_pixels
        middle = (np.array([columns, rows], float) - 1) / 2
        place = (np.asarray(ideal_uv, float) - middle) / (columns / 2)
        return np.asarray(ideal_uv, float) + self._displacement(place) * (columns / 2)

    def _displacement(self, place: FloatArray) -> FloatArray:
        distance = np.linalg.norm(place, axis=-1, keepdims=True)
        within = place * np.minimum(1.0, self.radius / np.maximum(distance, 1e-9))
        return design(within) @ self.coefficients.T

    def to_dict(self) -> dict[str, Any]:
        return {
            "detector_pixels": list(self.detector_pixels),
            "displacement": self.coefficients.tolist(),
            "radius": self.radius,
            "rest_pixels": self.rest_pixels,
            "beads": self.beads,
        }

    @staticmethod
    def from_dict(record: dict[str, Any]) -> Distortion:
        """From the content of a `distortion` document."""
        columns, rows = record["detector_pixels"]
        coefficients = np.array(record["displacement"], float)
        return Distortion((columns, rows), coefficients, record["radius"], record["rest_pixels"], record["beads"])


def design(place: FloatArray) -> FloatArray:
    """(..., TERMS) products of powers of places (..., 2)."""
    x, y = place[..., 0], place[..., 1]
    return np.stack([x**i * y**j for i, j in _POWERS], axis=-1)


class Undistorter:
    """Takes a distortion out of frames, one like the other; where each pixel comes from is worked out once."""

    def __init__(self, distortion: Distortion) -> None:
        self._distortion = distortion
        self._shape: tuple[int, int] | None = None

    def __call__(self, frame: NDArray) -> NDArray:
        """The frame (rows, columns) without distortion, of the same kind of numbers; black where nothing was seen.

        Raises:
            ImageError: for a frame of other proportions than the calibration's.
        """
        if frame.shape != self._shape:
            self._prepare(frame.shape)
        flat = frame.ravel()
        mixed = np.zeros(flat.shape, np.float32)
        for offset, weight in self._parts:
            mixed += weight * flat[np.minimum(self._first + offset, flat.size - 1)]
        if frame.dtype.kind in "ui":
            mixed = np.rint(mixed)
        return mixed.reshape(frame.shape).astype(frame.dtype)

    def _prepare(self, shape: tuple[int, ...]) -> None:
        told_columns, told_rows = self._distortion.detector_pixels
        if len(shape) != 2 or shape[0] * told_columns != shape[1] * told_rows:
            raise ImageError(
                f"a frame of shape {shape} has not the proportions of the distortion's calibration, {told_columns} x "
                f"{told_rows} pixels; calibrate this fluoroscope, or turn the correction off"
            )
        rows, columns = shape
        ideal = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
        u, v = np.moveaxis(self._distortion.seen(ideal, (columns, rows)), -1, 0)
        inside = (u >= 0) & (u <= columns - 1) & (v >= 0) & (v <= rows - 1)
        left = np.clip(np.floor(u), 0, columns - 2).astype(np.intp)
        top = np.clip(np.floor(v), 0, rows - 2).astype(np.intp)
        across, down = (u - left) * inside, (v - top) * inside
        weights = {0: (1 - across) * (1 - down), 1: across * (1 - down), columns: (1 - across) * down}
        weights[columns + 1] = across * down
        self._first = (top * columns + left).ravel()
        self._parts = [(offset, (weight * inside).astype(np.float32).ravel()) for offset, weight in weights.items()]
        self._shape = (rows, columns)


def write_distortion(distortion: Distortion, path: Path) -> None:
    """Write a `distortion` document."""
    write_document(path, "distortion", distortion.to_dict())


def read_distortion(path: Path) -> Distortion:
    """Read a `distortion` document.

    Raises:
        DocumentError: for a file that is none.
    """
    return Distortion.from_dict(read_document(path, "distortion"))
