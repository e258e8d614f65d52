"""Simulated X-rays of the patient that the trocar is drawn over, made once; only the trocar is drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode

from ..xray.geometry import XrayGeometry
from .fluoroscopy import FluoroscopyDesk, png_of

#: Views in which side and depth of a trocar are judged.
VIEWS = ("ap", "lateral", "outlet")
_PIXELS = 384


@dataclass(frozen=True)
class GuidanceXray:
    """A picture with the outlines of what is protected, as a PNG file, and its geometry."""

    name: str
    png: bytes
    geometry: XrayGeometry


def guidance_xrays(
    scene: vtkMRMLScene,
    ct: vtkMRMLScalarVolumeNode,
    segmentation: vtkMRMLSegmentationNode | None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[GuidanceXray, ...]:
    """Simulate the views of this patient; takes a second or two, more when they have to be found first.

    Args:
        segmentation: in whose anatomy the views are found; without it those of the mean angles are taken.
        progress: called with 0 to 1.
    """
    desk = FluoroscopyDesk(scene)
    found = desk.views(ct, segmentation, progress=lambda done: progress(0.5 * done))
    made = []
    for number, name in enumerate(VIEWS, start=1):
        geometry = found[name].geometry.resampled(_PIXELS)
        made.append(GuidanceXray(name, png_of(desk.backdrop(ct, geometry, segmentation)), geometry))
        progress(0.5 + 0.5 * number / len(VIEWS))
    return tuple(made)
