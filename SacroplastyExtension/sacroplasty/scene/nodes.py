"""Engine objects as MRML nodes and back. Every function works alike in 3D Slicer and in the headless host."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer
from slicer import (
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLModelNode,
    vtkMRMLNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLSegmentationNode,
    vtkMRMLTextNode,
)

from ..anatomy.colors import color_of
from ..errors import SacroplastyError
from ..geometry import FloatArray
from ..image import Volume
from .terminology import terminology_entry


def volume_of(node: vtkMRMLScalarVolumeNode) -> Volume:
    """A copy of a volume node's voxels and geometry, with the node's linear parent transforms applied.

    Raises:
        SacroplastyError: when the node is empty or bent by a non-linear transform.
    """
    if node is None or node.GetImageData() is None:
        raise SacroplastyError("the volume is empty; load or select a CT")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    IJKToRAS = slicer.util.arrayFromVTKMatrix(matrix)
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise SacroplastyError(f"{node.GetName()} is under a non-linear transform; harden or remove it first")
        parent.GetMatrixTransformToWorld(matrix)
        IJKToRAS = slicer.util.arrayFromVTKMatrix(matrix) @ IJKToRAS
    return Volume(slicer.util.arrayFromVolume(node).copy(), IJKToRAS)


def volumes_in(scene: vtkMRMLScene) -> list[vtkMRMLScalarVolumeNode]:
    """Images of more than one slice that are neither label maps nor hidden, in the order in which they came."""
    found = []
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLScalarVolumeNode")
        image = node.GetImageData()
        shown = not node.IsA("vtkMRMLLabelMapVolumeNode") and not node.GetHideFromEditors()
        if shown and image is not None and min(image.GetDimensions()) > 1:
            found.append(node)
    return found


def add_volume(scene: vtkMRMLScene, volume: Volume, name: str) -> vtkMRMLScalarVolumeNode:
    """Add a scalar volume with display nodes."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    set_volume(node, volume)
    node.CreateDefaultDisplayNodes()
    return node


def add_label_volume(scene: vtkMRMLScene, volume: Volume, name: str) -> vtkMRMLScalarVolumeNode:
    """Add a label map volume."""
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    set_volume(node, volume)
    node.CreateDefaultDisplayNodes()
    return node


def set_volume(node: vtkMRMLScalarVolumeNode, volume: Volume) -> None:
    """Replace a volume node's voxels and geometry; its display, name and place in the scene stay."""
    node.SetIJKToRASMatrix(_vtk_matrix(volume.IJKToRAS))
    node.SetAndObserveImageData(_vtk_image(volume.voxels))


def add_segmentation(
    scene: vtkMRMLScene, masks: Mapping[str, NDArray[np.bool_]], grid: Volume, name: str
) -> vtkMRMLSegmentationNode:
    """Add a segmentation with one named, coloured and coded segment for each mask that is not empty.

    Args:
        masks: by segment name, each of the grid's shape.
        grid: whose geometry the masks have.
    """
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    # Outlines only: a fill hides the very bone that a person must judge.
    node.GetDisplayNode().SetVisibility2DFill(False)
    node.GetDisplayNode().SetSliceIntersectionThickness(2)
    for segment_name, mask in masks.items():
        if mask.any():
            set_segment(node, segment_name, mask, grid)
    return node


def set_segment(node: vtkMRMLSegmentationNode, name: str, mask: NDArray[np.bool_], grid: Volume) -> str:
    """Add the segment or replace its voxels. Returns the segment's ID, which is its name."""
    found = np.argwhere(mask)
    image = slicer.vtkOrientedImageData()
    if len(found):
        low, high = found.min(axis=0), found.max(axis=0) + 1
        cropped = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.uint8)
        image.DeepCopy(_vtk_image(cropped))
        # The extent places the cropped block in the grid.
        k, j, i = (int(value) for value in low)
        extent = [i, i + cropped.shape[2] - 1, j, j + cropped.shape[1] - 1, k, k + cropped.shape[0] - 1]
        image.SetExtent(extent)
    image.SetGeometryFromImageToWorldMatrix(_vtk_matrix(grid.IJKToRAS))
    segmentation = node.GetSegmentation()
    existing = segmentation.GetSegment(name)
    if existing is not None:
        existing.RemoveAllRepresentations()
        existing.AddRepresentation("Binary labelmap", image)
        segmentation.Modified()
        return name
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*color_of(name))
    entry = terminology_entry(name)
    if entry is not None:
        segment.SetTag(segment.GetTerminologyEntryTagName(), entry)
    segment.AddRepresentation("Binary labelmap", image)
    segmentation.AddSegment(segment, name)
    return name


def mask_of(node: vtkMRMLSegmentationNode, name: str, grid: Volume) -> NDArray[np.bool_]:
    """The voxels of a segment on the given grid (False where the segment does not reach).

    Raises:
        SacroplastyError: when there is no segment of that name.
    """
    segmentation = node.GetSegmentation()
    segment_id = segmentation.GetSegmentIdBySegmentName(name)
    if not segment_id:
        raise SacroplastyError(f"{node.GetName()} has no segment {name!r}; run the segmentation first")
    reference = slicer.vtkOrientedImageData()
    reference.SetExtent(0, grid.voxels.shape[2] - 1, 0, grid.voxels.shape[1] - 1, 0, grid.voxels.shape[0] - 1)
    reference.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    reference.SetGeometryFromImageToWorldMatrix(_vtk_matrix(grid.IJKToRAS))
    source = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, source)
    target = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    if not resample(source, reference, target, False, False):
        raise SacroplastyError(f"segment {name!r} of {node.GetName()} cannot be brought onto the CT's grid")
    voxels = vtk_to_numpy(target.GetPointData().GetScalars())
    return voxels.reshape(grid.voxels.shape) != 0


def segment_names(node: vtkMRMLSegmentationNode) -> list[str]:
    """Names of all segments in order."""
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(number).GetName() for number in range(segmentation.GetNumberOfSegments())]


def voxels_of(node: vtkMRMLSegmentationNode, name: str) -> tuple[NDArray[np.bool_], NDArray[np.int64], FloatArray]:
    """Mask [k, j, i] of a segment in its own (cropped) grid, i, j, k of the mask's first voxel, and that grid in RAS.

    A segment that is not there, or has no voxel, gives an empty mask.
    """
    image = slicer.vtkOrientedImageData()
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    if segment_id:
        node.GetBinaryLabelmapRepresentation(segment_id, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ImageToRAS = slicer.util.arrayFromVTKMatrix(matrix)
    if image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        return np.zeros((0, 0, 0), bool), np.zeros(3, int), ImageToRAS
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(tuple(reversed(image.GetDimensions())))
    return voxels != 0, np.array(image.GetExtent()[::2]), ImageToRAS


def shape_digest(node: vtkMRMLSegmentationNode, name: str) -> str:
    """A text that changes when a segment's voxels change, and not when the segmentation is saved and loaded.

    Empty for a segment that is not there or has no voxel.
    """
    voxels, first_ijk, ImageToRAS = voxels_of(node, name)
    found = [np.flatnonzero(voxels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(found[0]):
        return ""
    # Whatever room was left around the segment says nothing of it.
    cropped = voxels[tuple(slice(one[0], one[-1] + 1) for one in found)]
    corner = first_ijk + np.array([one[0] for one in reversed(found)])
    # Zero has two signs in print.
    place = np.round([ImageToRAS[:3, :3] @ corner + ImageToRAS[:3, 3], *ImageToRAS[:3, :3].T], 2) + 0.0
    return hashlib.sha256(np.packbits(cropped).tobytes() + repr((place.tolist(), cropped.shape)).encode()).hexdigest()


def terminology_of(node: vtkMRMLSegmentationNode, name: str) -> str:
    """The terminology entry of a segment, as Slicer stores it; empty when it has none."""
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(name))
    entry = vtk.reference("")
    return str(entry) if segment.GetTag(segment.GetTerminologyEntryTagName(), entry) else ""


def add_line(
    scene: vtkMRMLScene,
    start_ras: ArrayLike,
    end_ras: ArrayLike,
    name: str,
    color: tuple[float, float, float] = (0.2, 0.8, 0.9),
    locked: bool = True,
) -> vtkMRMLMarkupsLineNode:
    """Add a markups line, locked so that it does not move by accident."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name)
    node.CreateDefaultDisplayNodes()
    node.AddControlPoint(vtk.vtkVector3d(*np.asarray(start_ras, float)), "entry")
    node.AddControlPoint(vtk.vtkVector3d(*np.asarray(end_ras, float)), "target")
    node.SetLocked(locked)
    display = node.GetDisplayNode()
    display.SetSelectedColor(*color)
    display.SetColor(*color)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(False)
    return node


def move_line(node: vtkMRMLMarkupsLineNode, start_ras: ArrayLike, end_ras: ArrayLike) -> None:
    """Move both ends of a line, which views and observers see as one change."""
    was_modifying = node.StartModify()
    for number, position in enumerate((start_ras, end_ras)):
        node.SetNthControlPointPositionWorld(number, vtk.vtkVector3d(*np.asarray(position, float)))
    node.EndModify(was_modifying)


def line_points(node: vtkMRMLMarkupsLineNode) -> tuple[FloatArray, FloatArray]:
    """Start and end of a line in RAS.

    Raises:
        SacroplastyError: while one of the two points has not been placed.
    """
    if node is None or node.GetNumberOfDefinedControlPoints() < 2:
        raise SacroplastyError("the line has no two points; place entry and target")
    points = []
    for number in range(2):
        position = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(number, position)
        points.append(np.array(position))
    return points[0], points[1]


def add_points(scene: vtkMRMLScene, points: Mapping[str, ArrayLike], name: str) -> vtkMRMLMarkupsFiducialNode:
    """Add a locked list of named points in RAS."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    for label, position in points.items():
        node.AddControlPoint(vtk.vtkVector3d(*np.asarray(position, float)), label)
    node.SetLocked(True)
    return node


def points_of(node: vtkMRMLMarkupsFiducialNode) -> dict[str, FloatArray]:
    """Named points in RAS; points that were not placed yet are left out."""
    points = {}
    for number in range(node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(number) == slicer.vtkMRMLMarkupsNode.PositionDefined:
            position = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(number, position)
            points[node.GetNthControlPointLabel(number)] = np.array(position)
    return points


def add_transform(scene: vtkMRMLScene, matrix: ArrayLike, name: str) -> vtkMRMLLinearTransformNode:
    """Add a linear transform node."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    set_transform(node, matrix)
    return node


def set_transform(node: vtkMRMLLinearTransformNode, matrix: ArrayLike) -> None:
    """Set the node's matrix to its parent."""
    node.SetMatrixTransformToParent(_vtk_matrix(matrix))


def matrix_of(node: vtkMRMLLinearTransformNode) -> FloatArray:
    """The 4x4 matrix of a transform node to its parent."""
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToParent(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def add_model(
    scene: vtkMRMLScene, mesh: vtk.vtkPolyData, name: str, color: tuple[float, float, float]
) -> vtkMRMLModelNode:
    """Add a surface model in RAS, with its outline in slice views."""
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(mesh)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(*color)
    node.GetDisplayNode().SetVisibility2D(True)
    return node


def add_trocar(
    scene: vtkMRMLScene,
    hub_ras: ArrayLike,
    tip_ras: ArrayLike,
    diameter_mm: float,
    name: str,
    color: tuple[float, float, float] = (0.2, 0.8, 0.9),
) -> vtkMRMLModelNode:
    """Add a shaft of true width."""
    line = vtk.vtkLineSource()
    line.SetPoint1(*np.asarray(hub_ras, float))
    line.SetPoint2(*np.asarray(tip_ras, float))
    tube = vtk.vtkTubeFilter()
    tube.SetInputConnection(line.GetOutputPort())
    tube.SetRadius(diameter_mm / 2)
    tube.SetNumberOfSides(24)
    tube.CappingOn()
    tube.Update()
    return add_model(scene, tube.GetOutput(), name, color)


def add_text(scene: vtkMRMLScene, text: str, name: str) -> vtkMRMLTextNode:
    """Add a text node; JSON documents of a case live in these."""
    node = scene.AddNewNodeByClass("vtkMRMLTextNode", name)
    node.SetText(text)
    return node


def text_of(scene: vtkMRMLScene, name: str) -> str | None:
    """The text of the first text node with this name, or None."""
    node = first_node(scene, "vtkMRMLTextNode", name)
    return None if node is None else node.GetText()


def first_node(scene: vtkMRMLScene, class_name: str, name: str) -> vtkMRMLNode | None:
    """The first node of a class that has this name, or None."""
    for number in range(scene.GetNumberOfNodesByClass(class_name)):
        node = scene.GetNthNodeByClass(number, class_name)
        if node.GetName() == name:
            return node
    return None


def _vtk_matrix(matrix: ArrayLike) -> vtk.vtkMatrix4x4:
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, float).ravel().tolist())
    return result


def _vtk_image(voxels: NDArray) -> vtk.vtkImageData:
    """VTK image of an array [k, j, i]; it owns a copy of the voxels."""
    contiguous = np.ascontiguousarray(voxels.astype(np.uint8) if voxels.dtype == bool else voxels)
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(contiguous.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(contiguous.ravel(), deep=True))
    return image
