"""A sacrum of planes and cylinders with known canal and foramina, on a grid of any orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sacroplasty.geometry import FloatArray, invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.image import Volume

#: Height of the foramina below the endplate and distance from the midline [mm].
LEVELS = {"s1": (-28.0, 21.0, 5.5), "s2": (-49.0, 20.0, 5.0), "s3": (-67.0, 18.0, 4.5), "s4": (-84.0, 16.0, 4.0)}
#: A pelvis lying a little askew and leaning back, anywhere in the scanner.
SACRUM_TO_RAS = rigid(
    rotation_about([0, 0, 1], 5.0) @ rotation_about([1, 0, 0], 30.0) @ np.diag([-1.0, -1.0, 1.0]), [12.0, -40.0, 300.0]
)


#: One that lies straight and leans forward by 40 degrees, as people's do.
USUAL_SACRUM_TO_RAS = rigid(rotation_about([1, 0, 0], -40.0) @ np.diag([-1.0, -1.0, 1.0]), [5.0, -40.0, 300.0])


def front(z: FloatArray) -> FloatArray:
    return -17.0 - 0.30 * z


def back(z: FloatArray) -> FloatArray:
    return 31.0 - 0.02 * z


@dataclass(frozen=True)
class SimpleSacrum:
    ct: Volume
    bones: Volume
    canal: np.ndarray
    foramina: np.ndarray
    SacrumToRAS: FloatArray

    def opening(self, level: str, side: str, which: str) -> FloatArray:
        """Exact centre of an opening in RAS."""
        z, beside, _ = LEVELS[level]
        y = front(z) if which == "anterior" else back(z)
        return transform_points(self.SacrumToRAS, [beside if side == "left" else -beside, y, z])


def simple_sacrum(
    spacing_mm: float = 2.0,
    directions: FloatArray | None = None,
    closed: tuple[str, str] | None = None,
    SacrumToRAS: FloatArray = SACRUM_TO_RAS,
) -> SimpleSacrum:
    """
    Args:
        directions: 3x3 columns of the grid's axes in RAS (rotated or mirrored); RAS itself by default.
        closed: level and side of a foramen that the bones leave no hole for.
        SacrumToRAS: how it lies.
    """
    axes = np.eye(3) if directions is None else np.asarray(directions, float)
    size = np.array([210.0, 190.0, 200.0])
    middle = transform_points(SacrumToRAS, [0, 20, -40])
    # The box of an oblique grid must still hold everything.
    extent = np.abs(axes.T) @ size
    counts = np.ceil(extent / spacing_mm).astype(int)
    origin = middle - axes @ ((counts - 1) * spacing_mm / 2)
    IJKToRAS = rigid(axes * spacing_mm, origin)
    k, j, i = np.indices(tuple(counts[::-1]))
    points = transform_points(invert_rigid(SacrumToRAS), transform_points(IJKToRAS, np.stack([i, j, k], axis=-1)))
    x, y, z = np.moveaxis(points, -1, 0)
    width = 56.0 + 0.2 * np.minimum(z, 0)
    block = (z <= 0) & (z >= -105) & (y >= front(z)) & (y <= back(z)) & (np.abs(x) <= width)
    # The wings begin a little below the endplate of the body, and nothing stands behind the canal at its top.
    block &= (np.abs(x) <= 26) | (z <= -6)
    block &= ~((np.abs(x) <= 14) & (z > -12) & (y > 16))
    middle_y = 0.62 * back(z) + 0.38 * front(z)
    canal = ((x / (9 + 0.05 * z)) ** 2 + ((y - middle_y) / (6 + 0.03 * z)) ** 2 <= 1) & (z <= 0) & (z >= -92)
    foramina = np.zeros_like(block)
    for level, (height, beside, radius) in LEVELS.items():
        for side, sign in (("left", 1.0), ("right", -1.0)):
            if closed == (level, side):
                continue
            hole = np.hypot(x - sign * beside, z - height) <= radius
            root = (sign * x > 0) & (sign * x < beside) & (np.hypot(y - middle_y, z - height) <= 3)
            foramina |= (hole | root) & block
    foramina &= ~canal
    sacrum = block & ~canal & ~foramina
    l5 = (z >= 8) & (z <= 34) & (y >= -17) & (y <= 16) & (np.abs(x) <= 24)
    wing = (np.abs(x) >= width + 3) & (np.abs(x) <= width + 16) & (y >= -25) & (y <= 34) & (z >= -75) & (z <= 25)
    bones = sacrum * 1 + l5 * 2 + (wing & (x > 0)) * 3 + (wing & (x < 0)) * 4
    skin = (x / 130) ** 2 + (y / 85) ** 2 > 1
    hounsfield = np.where(skin, -1000, 30)
    hounsfield[bones > 0] = 350
    # Osteoporotic wings: fat inside a shell of bone.
    inside = sacrum & (np.abs(x) > 28) & (np.abs(x) < width - 4) & (y > front(z) + 4) & (y < back(z) - 4)
    hounsfield[inside] = -50
    return SimpleSacrum(
        ct=Volume(hounsfield.astype(np.int16), IJKToRAS),
        bones=Volume(bones.astype(np.uint8), IJKToRAS),
        canal=canal,
        foramina=foramina,
        SacrumToRAS=SacrumToRAS,
    )
