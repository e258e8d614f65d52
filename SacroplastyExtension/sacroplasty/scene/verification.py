"""Cement on the CT after the procedure: measured, shown, and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..errors import ImageError
from ..image import Volume, check_ct
from ..planning.model import Side
from ..procedure.verify import VerifiedCement, find_cement
from .anatomy import anatomy_of, readable
from .navigation import trocars
from .nodes import add_segmentation, first_node, volume_of
from .records import read_record, write_record
from .workflow import write_step

SEGMENTATION_NAME = "Cement"
RECORD_NAME = "Sacroplasty verification"
#: How far from a single tip cement is looked for [mm].
_REACH_MM = 45.0
#: Zones in which cement was meant to be.
_INTENDED = ("planned", "bone")
#: Less than this is within the error of partial voxels [mL].
_NEGLIGIBLE_ML = 0.05


def verify(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    before_node: vtkMRMLScalarVolumeNode,
    after_node: vtkMRMLScalarVolumeNode,
) -> dict[Side, dict[str, float]]:
    """Find the cement around each recorded trocar tip.

    Args:
        after_node: on the grid of the first CT and in register with it.

    Returns:
        mL by zone, by side.

    Raises:
        ImageError: when no trocar was recorded, or the CTs do not share a grid.
    """
    from ..cement.zones import make_zones

    tips = {side: placed.tip_ras for side, placed in trocars(scene).items()}
    if not tips:
        raise ImageError("no trocar was recorded, so it is not known where cement left it; record it in Navigation")
    before, after = volume_of(before_node), volume_of(after_node)
    check_ct(after, after_node.GetName())
    anatomy = anatomy_of(scene, segmentation, before_node)
    between = np.linalg.norm(tips["left"] - tips["right"]) / 2 if len(tips) == 2 else _REACH_MM
    found = {
        side: find_cement(before, after, make_zones(anatomy, tip, (side,)), tip, float(between))
        for side, tip in tips.items()
    }
    show_cement(scene, before, found)
    return {side: one.by_zone_ml for side, one in found.items()}


def show_cement(scene: vtkMRMLScene, ct: Volume, found: Mapping[Side, VerifiedCement]) -> None:
    """Show measured cement in place of an older measurement, and record how the verification ended."""
    old = first_node(scene, "vtkMRMLSegmentationNode", SEGMENTATION_NAME)
    if old is not None:
        scene.RemoveNode(old)
    masks = {f"cement_{number}": one.mask.voxels for number, one in enumerate(found.values(), start=1)}
    if any(mask.any() for mask in masks.values()):
        add_segmentation(scene, masks, ct, SEGMENTATION_NAME).CreateClosedSurfaceRepresentation()
    write_record(scene, RECORD_NAME, {side: one.by_zone_ml for side, one in found.items()})
    texts = [f"{one.volume_ml:.1f} mL {side}" for side, one in found.items()]
    outside = [
        f"{volume_ml:.2f} mL in {readable(zone)} ({side})"
        for side, one in found.items()
        for zone, volume_ml in one.by_zone_ml.items()
        if zone not in _INTENDED and volume_ml >= _NEGLIGIBLE_ML
    ]
    write_step(scene, "verification", True, texts + outside)


def measured(scene: vtkMRMLScene) -> dict[Side, dict[str, float]]:
    """mL by zone, by side, of the last verification."""
    record = read_record(scene, RECORD_NAME) or {}
    return {side: record[side] for side in get_args(Side) if side in record}
