"""A case of plain boxes: enough of a sacrum for scenes, with every number known."""

from __future__ import annotations

import numpy as np

from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy, Foramen, Landmark, Opening
from sacroplasty.geometry import rigid
from sacroplasty.image import Volume
from sacroplasty.planning.model import Depot, Plan, Trajectory
from sacroplasty.planning.needles import needle

#: i towards the left, j posterior, k superior, 2 mm, as a scanner gives it in RAS.
IJKToRAS = np.array([[-2.0, 0, 0, 80], [0, -2.0, 0, 60], [0, 0, 2.0, -50], [0, 0, 0, 1]])
SHAPE = (50, 60, 80)


def box(low_ras: tuple[float, float, float], high_ras: tuple[float, float, float]) -> np.ndarray:
    """Mask of the voxels whose centres lie in a box."""
    k, j, i = np.indices(SHAPE)
    ras = np.stack([80 - 2.0 * i, 60 - 2.0 * j, -50 + 2.0 * k], axis=-1)
    return ((ras >= low_ras) & (ras <= high_ras)).all(axis=-1)


def make_ct() -> Volume:
    """A body of water in air with a block of bone in it (int16 HU)."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[box((-70, -50, -60), (70, 50, 60))] = 0
    hu[box((-50, -30, -40), (50, 0, 40))] = 300
    return Volume(hu, IJKToRAS)


def make_anatomy(ct: Volume) -> Anatomy:
    bones, regions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    bones[box((-50, -30, -40), (50, 0, 40))] = BONE_LABEL["sacrum"]
    regions[box((-6, -30, -40), (6, -20, 40))] = REGION_LABEL["sacral_canal"]
    regions[box((-24, -30, 6), (-16, 0, 14))] = REGION_LABEL["foramen_s1_left"]
    regions[box((16, -30, 6), (24, 0, 14))] = REGION_LABEL["foramen_s1_right"]
    regions[box((-50, -30, -40), (-26, 0, 40))] = REGION_LABEL["ala_left"]
    regions[box((26, -30, -40), (50, 0, 40))] = REGION_LABEL["ala_right"]
    return Anatomy(
        bones=ct.like(bones),
        regions=ct.like(regions),
        foramina={
            f"foramen_s1_{side}": Foramen(
                Opening(np.array([20.0 * sign, 0, 10]), np.array([0.0, 1, 0]), 8.0, 8.0),
                Opening(np.array([20.0 * sign, -30, 10]), np.array([0.0, -1, 0]), 8.0, 8.0),
                np.array([24.0 * sign, -30, 10]),
            )
            for side, sign in (("left", -1), ("right", 1))
        },
        landmarks={"promontory": Landmark(np.array([0.0, 0, 40]), 1.5)},
        SacrumToRAS=rigid(np.diag([-1.0, -1.0, 1.0]), [0, -10, 40]),
        confidence={"sacrum": 0.95, "sacral_canal": 0.9, "foramen_s1_left": 0.4, "foramen_s1_right": 0.8},
        warnings=("foramen S1 left is hard to see: check it",),
        method="test",
        image_hash=ct.content_hash(),
    )


def make_plan(ct: Volume) -> Plan:
    def trajectory(side: str, x: float, accepted: bool, reasons: tuple[str, ...] = ()) -> Trajectory:
        return Trajectory(
            side=side,
            technique="short-axis",
            entry_skin=np.array([x, -50.0, -20.0]),
            entry_bone=np.array([x, -30.0, -12.0]),
            target=np.array([x, -10.0, -4.0]),
            needle=needle(11),
            length_mm=43.1,
            clearance_mm={"sacral_canal": 28.0, "foramen_s1_left": 11.0},
            accepted=accepted,
            reasons=reasons,
            depots=(Depot(np.array([x, -10.0, -4.0]), 4.0),),
        )

    return Plan(
        (
            trajectory("left", -38.0, True),
            trajectory("left", -36.0, True),
            trajectory("right", 20.0, False, ("the shaft crosses foramen_s1_right",)),
        ),
        ct.content_hash(),
    )
