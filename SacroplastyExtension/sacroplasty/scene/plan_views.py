"""Slice views that follow a planned trocar: down its axis as a probe's eye sees it, and along it in two planes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from slicer import vtkMRMLScene, vtkMRMLSliceNode

from ..geometry import FloatArray, perpendicular, unit

#: Which slice view shows what: the one that usually shows the most similar plane.
PROBE_EYE, FROM_BELOW, FROM_THE_SIDE = "Green", "Red", "Yellow"
#: Nearer to the body's axis than this (cosine), "up" is no direction to hold on to.
_ALONG_THE_BODY = 0.9
_RIGHT, _SUPERIOR = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class TrocarAxes:
    """A right-handed frame on a trocar, unit vectors in RAS.

    Attributes:
        right, up: as the person who looks down the trocar sees them.
        outwards: along the trocar, towards the hand.
    """

    right: FloatArray
    up: FloatArray
    outwards: FloatArray

    @staticmethod
    def of(entry_ras: ArrayLike, target_ras: ArrayLike) -> TrocarAxes:
        """Up is the patient's head; for a trocar that runs along the body, right is the patient's right.

        Raises:
            GeometryError: when entry and target are the same point.
        """
        outwards = unit(np.asarray(entry_ras, float) - np.asarray(target_ras, float))
        if abs(outwards @ _SUPERIOR) < _ALONG_THE_BODY:
            up = unit(_SUPERIOR - (_SUPERIOR @ outwards) * outwards)
            return TrocarAxes(np.cross(up, outwards), up, outwards)
        across = _RIGHT - (_RIGHT @ outwards) * outwards
        right = unit(across) if np.linalg.norm(across) > 1e-3 else perpendicular(outwards)
        return TrocarAxes(right, np.cross(outwards, right), outwards)


def show_along_trocar(scene: vtkMRMLScene, entry_ras: ArrayLike, target_ras: ArrayLike, depth_mm: float) -> None:
    """Turn the slice views of the standard layouts to a trocar, through the point at a depth from its entry.

    Green looks down the trocar as from its hub. Red holds the trocar and its right-left direction, seen from below as
    an axial slice is. Yellow holds the trocar and its up-down direction. Views that a layout lacks are left out.
    """
    axes = TrocarAxes.of(entry_ras, target_ras)
    point = np.asarray(entry_ras, float) - depth_mm * axes.outwards
    # By the normal towards the onlooker and the direction to the right of the picture.
    for view, normal, to_the_right in (
        (PROBE_EYE, axes.outwards, axes.right),
        (FROM_BELOW, -axes.up, -axes.right),
        (FROM_THE_SIDE, -axes.right, axes.outwards),
    ):
        node = _slice_node(scene, view)
        if node is not None:
            node.SetSliceToRASByNTP(*normal, *to_the_right, *point, 0)


def show_standard_planes(scene: vtkMRMLScene, through_ras: ArrayLike) -> None:
    """Turn the same views back to axial, sagittal and coronal, through a point."""
    for view in (PROBE_EYE, FROM_BELOW, FROM_THE_SIDE):
        node = _slice_node(scene, view)
        if node is not None:
            node.SetOrientationToDefault()
            node.JumpSliceByCentering(*(float(value) for value in np.asarray(through_ras, float)))


def _slice_node(scene: vtkMRMLScene, view: str) -> vtkMRMLSliceNode | None:
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
        node: vtkMRMLSliceNode = scene.GetNthNodeByClass(number, "vtkMRMLSliceNode")
        if node.GetLayoutName() == view:
            return node
    return None
