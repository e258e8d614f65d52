"""Fractures in the scene: suggestions as flat models to look at, marked ones as segments, and their classification.

Marked fractures are the segments `fracture_1`, `fracture_2` ... of the anatomy's segmentation, which the Segment Editor
can correct. Everything else is in the anatomy's record, so a saved scene restores all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import vtk

import slicer
from slicer import (
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLSegmentationNode,
)

from ..anatomy.fracture_classification import (
    TransverseMeasure,
    answer_anterior_ring,
    classify_fractures,
    confirm,
)
from ..anatomy.fracture_marking import fracture_from_curve, fracture_from_plane, fracture_from_suggestion
from ..anatomy.fracture_model import (
    AnteriorRing,
    FractureClassification,
    FractureSuggestion,
    MarkedFracture,
)
from ..anatomy.fracture_reach import leak_risk_notes
from ..anatomy.fracture_records import (
    classification_from,
    fracture_records,
    suggestions_from,
)
from ..anatomy.model import Anatomy
from ..errors import AnatomyError
from ..image import Volume
from .anatomy import RECORD_NAME, anatomy_of, fracture_segments
from .nodes import add_model, segment_names, set_segment
from .records import read_record, write_record

#: On each model of a suggestion: which one it shows, from 0.
_INDEX = "Sacroplasty.FractureSuggestion"
#: Blue: a suggestion must not look like the red of a marked fracture.
_SUGGESTION_COLOR = (0.3, 0.6, 0.95)
_SUGGESTION_OPACITY = 0.4


def suggest(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    progress: Callable[[float], None] | None = None,
) -> tuple[FractureSuggestion, ...]:
    """Look for fracture lines and show where, in place of older suggestions. Marked fractures stay.

    Raises:
        AnatomyError: when nothing was segmented yet or the CT is another one.
    """
    from ..anatomy.fracture_suggestions import suggest_fractures
    from .nodes import volume_of

    anatomy = anatomy_of(scene, segmentation, ct_node)
    found = suggest_fractures(volume_of(ct_node), anatomy, progress)
    _store(scene, replace(anatomy, fracture_suggestions=found))
    show_suggestions(scene)
    return found


def suggestions(scene: vtkMRMLScene) -> tuple[FractureSuggestion, ...]:
    """What was suggested last. `SUGGESTION_NOTICE` must stand beside it wherever it is shown."""
    return suggestions_from((read_record(scene, RECORD_NAME) or {}).get("fracture_suggestions", ()))


def show_suggestions(scene: vtkMRMLScene) -> list[vtkMRMLModelNode]:
    """A flat, see-through model for each suggestion, in place of older ones."""
    hide_suggestions(scene)
    models = []
    for number, one in enumerate(suggestions(scene)):
        model = add_model(scene, _ellipse(one), f"Suggestion {number + 1} ({one.score:.2f})", _SUGGESTION_COLOR)
        model.GetDisplayNode().SetOpacity(_SUGGESTION_OPACITY)
        model.SetAttribute(_INDEX, str(number))
        models.append(model)
    return models


def hide_suggestions(scene: vtkMRMLScene) -> None:
    """Remove the models; the suggestions stay on record."""
    nodes = [
        scene.GetNthNodeByClass(number, "vtkMRMLModelNode")
        for number in range(scene.GetNumberOfNodesByClass("vtkMRMLModelNode"))
    ]
    for node in nodes:
        if node.GetAttribute(_INDEX) is not None:
            scene.RemoveNode(node)


def mark_curve(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    curve: vtkMRMLMarkupsCurveNode,
) -> str:
    """Mark the fracture behind a curve that a person drew. Returns the name of its new segment.

    Raises:
        AnatomyError: for a curve that is too short or outside the sacrum.
    """
    if curve is None or curve.GetNumberOfDefinedControlPoints() < 2:
        raise AnatomyError("the curve has fewer than two points; draw it along the fracture line")
    points = slicer.util.arrayFromMarkupsCurvePoints(curve, world=True)
    return _mark(scene, segmentation, ct_node, lambda anatomy: fracture_from_curve(points, anatomy))


def mark_plane(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    plane: vtkMRMLMarkupsPlaneNode,
) -> str:
    """Mark the fracture in a plane that a person placed, no further than the plane's frame. Returns its segment's name.

    Raises:
        AnatomyError: for a plane that is not placed yet or misses the sacrum.
    """
    if plane is None or not plane.GetIsPlaneValid():
        raise AnatomyError("the plane is not placed yet; place it on the fracture line")
    along, across, normal = (np.zeros(3) for _ in range(3))
    plane.GetAxesWorld(along, across, normal)
    center, size = np.array(plane.GetCenterWorld()), plane.GetSizeWorld()
    return _mark(
        scene,
        segmentation,
        ct_node,
        lambda anatomy: fracture_from_plane(
            center, normal, anatomy, along_ras=along, extent_mm=(float(size[0]), float(size[1]))
        ),
    )


def accept_suggestion(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    index: int,
) -> str:
    """Mark a suggestion (from 0) that a person found to be a fracture. Returns the name of its segment.

    It is then no suggestion any more.

    Raises:
        AnatomyError: when there is no such suggestion.
    """
    known = suggestions(scene)
    if not 0 <= index < len(known):
        raise AnatomyError(f"there is no suggestion {index + 1}; there are {len(known)}")
    name = _mark(scene, segmentation, ct_node, lambda anatomy: fracture_from_suggestion(known[index], anatomy), index)
    show_suggestions(scene)
    return name


def dismiss_suggestion(scene: vtkMRMLScene, index: int) -> None:
    """Drop a suggestion (from 0) that a person found to be none.

    Raises:
        AnatomyError: when there is no such suggestion.
    """
    record = read_record(scene, RECORD_NAME) or {}
    known = list(record.get("fracture_suggestions", ()))
    if not 0 <= index < len(known):
        raise AnatomyError(f"there is no suggestion {index + 1}; there are {len(known)}")
    scene.SaveStateForUndo()
    del known[index]
    write_record(scene, RECORD_NAME, record | {"fracture_suggestions": known})
    show_suggestions(scene)


def remove_fracture(
    scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode, ct_node: vtkMRMLScalarVolumeNode, name: str
) -> None:
    """Take a marked fracture back; those after it move up in number, and the classification is proposed again.

    Raises:
        AnatomyError: when there is no such fracture.
    """
    names = fracture_segments(segment_names(segmentation))
    if name not in names:
        raise AnatomyError(f"there is no {name}; marked are {', '.join(names) or 'none'}")
    anatomy = anatomy_of(scene, segmentation, ct_node)
    kept = tuple(one for number, one in enumerate(anatomy.fractures) if number != names.index(name))
    scene.SaveStateForUndo()
    _show_fractures(scene, segmentation, replace(anatomy, fractures=kept))


def reclassify(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    transverse: TransverseMeasure | None = None,
) -> FractureClassification:
    """Propose names again, after segments were corrected or a transverse fracture was measured."""
    anatomy = anatomy_of(scene, segmentation, ct_node)
    proposed = classify_fractures(anatomy.fractures, anatomy, anatomy.fracture_classification, transverse)
    _store(scene, replace(anatomy, fracture_classification=proposed))
    return proposed


def classification(scene: vtkMRMLScene) -> FractureClassification:
    """Proposed and confirmed names; only confirmed ones may be relied on."""
    return classification_from((read_record(scene, RECORD_NAME) or {}).get("fracture_classification"))


def confirm_field(scene: vtkMRMLScene, field: str, value: str | float | None) -> FractureClassification:
    """Record a person's word on one field; None takes it back. The scene's undo does too.

    Raises:
        AnatomyError: for a field or value that there is not, or when nothing was segmented yet.
    """
    return _write_classification(scene, confirm(classification(scene), field, value))


def set_anterior_ring(scene: vtkMRMLScene, broken: AnteriorRing | None) -> FractureClassification:
    """Record whether a person saw the anterior pelvic ring broken: no, yes, or None for not asked."""
    return _write_classification(scene, answer_anterior_ring(classification(scene), broken))


def leak_notes(
    scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode, ct_node: vtkMRMLScalarVolumeNode
) -> tuple[str, ...]:
    """Sentences on lines that lead to the canal or a foramen, as a plan will carry them."""
    return leak_risk_notes(anatomy_of(scene, segmentation, ct_node))


def plane_of(scene: vtkMRMLScene, fracture: MarkedFracture, grid: Volume, name: str) -> vtkMRMLMarkupsPlaneNode:
    """A plane through a marked fracture, with a frame around it, to turn and mark again.

    Args:
        grid: any volume on the CT's grid.
    """
    points = grid.ras_of(fracture.voxels_kji)
    center = points.mean(axis=0)
    along = np.linalg.svd(points - center, full_matrices=False)[2][0]
    along = along - (along @ fracture.normal_ras) * fracture.normal_ras
    along /= np.linalg.norm(along)
    across = np.cross(fracture.normal_ras, along)
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetPlaneType(slicer.vtkMRMLMarkupsPlaneNode.PlaneTypePointNormal)
    node.SetAxesWorld(along, across, fracture.normal_ras)
    node.SetCenterWorld(center)
    node.SetSizeMode(slicer.vtkMRMLMarkupsPlaneNode.SizeModeAbsolute)
    size = [
        2 * float(np.abs((points - center) @ axis).max()) + float(grid.spacing_mm.max()) for axis in (along, across)
    ]
    node.SetSizeWorld(*size)
    return node


def _mark(
    scene: vtkMRMLScene,
    segmentation: vtkMRMLSegmentationNode,
    ct_node: vtkMRMLScalarVolumeNode,
    make: Callable[[Anatomy], MarkedFracture],
    accepted: int | None = None,
) -> str:
    anatomy = anatomy_of(scene, segmentation, ct_node)
    marked = make(anatomy)
    left = tuple(one for number, one in enumerate(anatomy.fracture_suggestions) if number != accepted)
    scene.SaveStateForUndo()
    _show_fractures(
        scene, segmentation, replace(anatomy, fractures=(*anatomy.fractures, marked), fracture_suggestions=left)
    )
    return f"fracture_{len(anatomy.fractures) + 1}"


def _show_fractures(scene: vtkMRMLScene, segmentation: vtkMRMLSegmentationNode, anatomy: Anatomy) -> None:
    """Segments and record of the anatomy's fractures in place of those in the scene, classified again."""
    segments = segmentation.GetSegmentation()
    for name in fracture_segments(segment_names(segmentation)):
        segments.RemoveSegment(segments.GetSegmentIdBySegmentName(name))
    for number, one in enumerate(anatomy.fractures, start=1):
        set_segment(segmentation, f"fracture_{number}", one.mask(anatomy.bones.voxels.shape), anatomy.bones)
    proposed = classify_fractures(anatomy.fractures, anatomy, anatomy.fracture_classification)
    _store(scene, replace(anatomy, fracture_classification=proposed))


def _store(scene: vtkMRMLScene, anatomy: Anatomy) -> None:
    record = read_record(scene, RECORD_NAME)
    if record is None:
        raise AnatomyError("the scene has no anatomy record; run the segmentation first")
    write_record(scene, RECORD_NAME, record | fracture_records(anatomy))


def _write_classification(scene: vtkMRMLScene, changed: FractureClassification) -> FractureClassification:
    record = read_record(scene, RECORD_NAME)
    if record is None:
        raise AnatomyError("the scene has no anatomy record; run the segmentation first")
    scene.SaveStateForUndo()
    write_record(scene, RECORD_NAME, record | {"fracture_classification": asdict(changed)})
    return changed


def _ellipse(suggestion: FractureSuggestion) -> vtk.vtkPolyData:
    """The suggestion's patch as a filled polygon in RAS."""
    across = np.cross(suggestion.normal_ras, suggestion.along_ras)
    points, polygon, cells = vtk.vtkPoints(), vtk.vtkPolygon(), vtk.vtkCellArray()
    for number, angle in enumerate(np.linspace(0, 2 * np.pi, 48, endpoint=False)):
        place = suggestion.center_ras + 0.5 * (
            np.cos(angle) * suggestion.extent_mm[0] * suggestion.along_ras
            + np.sin(angle) * suggestion.extent_mm[1] * across
        )
        points.InsertNextPoint(*place)
        polygon.GetPointIds().InsertNextId(number)
    cells.InsertNextCell(polygon)
    mesh = vtk.vtkPolyData()
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    return mesh
