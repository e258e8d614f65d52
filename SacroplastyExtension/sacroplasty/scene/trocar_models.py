"""Planned trocars as models: shaft in its true width, colored by its clearance, safety margin, and cement."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from slicer import vtkMRMLColorTableNode, vtkMRMLMarkupsLineNode, vtkMRMLModelNode, vtkMRMLNode, vtkMRMLScene

from ..anatomy.colors import color_of
from ..geometry import FloatArray, perpendicular, unit
from ..planning.depots import sphere_radius_mm
from ..planning.model import Depot
from .nodes import add_model, first_node

#: Arrays of a shaft's points, as they are found in the Models module too.
CLEARANCE_ARRAY, VERDICT_ARRAY = "Clearance (mm)", "Verdict"
#: Verdict of a place on the shaft: nearer than the margin, nearer than preferred, clear.
TOO_NEAR, NEAR, CLEAR = 0, 1, 2
#: Apart in brightness too: red dark, amber, green light.
VERDICT_COLORS = {TOO_NEAR: (0.75, 0.05, 0.10), NEAR: (1.00, 0.70, 0.10), CLEAR: (0.35, 0.85, 0.45)}
_VERDICT_NAMES = {TOO_NEAR: "nearer than the safety margin", NEAR: "nearer than preferred", CLEAR: "clear"}
_COLORS_NAME = "Sacroplasty clearance colors"
#: From a line to its models.
_SHAFT, _MARGIN, _CEMENT = "sacroplastyShaft", "sacroplastyMargin", "sacroplastyCement"
_ROLES = (_SHAFT, _MARGIN, _CEMENT)
_SIDES = 24
_CIRCLE = np.linspace(0, 2 * np.pi, _SIDES, endpoint=False)


def verdicts(clearance_mm: ArrayLike, margin_mm: float, preferred_mm: float) -> NDArray[np.uint8]:
    """Verdict of each place on a shaft by its clearance; not a number counts as too near."""
    clearance = np.asarray(clearance_mm, float)
    result = np.full(clearance.shape, TOO_NEAR, np.uint8)
    result[clearance >= margin_mm] = NEAR
    result[clearance >= max(margin_mm, preferred_mm)] = CLEAR
    return result


def show_shaft(
    line: vtkMRMLMarkupsLineNode,
    points_ras: ArrayLike,
    diameter_mm: float,
    clearance_mm: ArrayLike,
    margin_mm: float,
    preferred_mm: float,
) -> vtkMRMLModelNode:
    """Show the shaft of a line, or move it to where the line is now.

    Args:
        points_ras: (n, 3) along the shaft's axis, on a straight line.
        clearance_mm: (n,) of the shaft's surface at each of them.
    """
    node = _model_of(line, _SHAFT, "Trocar")
    mesh = _tube_of(node, len(np.asarray(points_ras)))
    clearance = np.asarray(clearance_mm, float)
    _move_tube(mesh, np.asarray(points_ras, float), diameter_mm / 2)
    # The caps have the values of their rings.
    around = np.concatenate([np.repeat(clearance, _SIDES), clearance[[0, -1]]])
    _set_array(mesh, CLEARANCE_ARRAY, around.astype(np.float32))
    _set_array(mesh, VERDICT_ARRAY, verdicts(around, margin_mm, preferred_mm).astype(np.float32))
    mesh.GetPointData().SetActiveScalars(VERDICT_ARRAY)
    mesh.Modified()
    display = node.GetDisplayNode()
    if display.GetActiveScalarName() != VERDICT_ARRAY:
        display.SetActiveScalarName(VERDICT_ARRAY)
        display.SetAndObserveColorNodeID(_colors(line.GetScene()).GetID())
        display.SetScalarRangeFlag(display.UseManualScalarRange)
        display.SetScalarRange(TOO_NEAR - 0.5, CLEAR + 0.5)
        display.SetScalarVisibility(True)
        display.SetSliceIntersectionThickness(2)
    return node


def show_margin(
    line: vtkMRMLMarkupsLineNode, points_ras: ArrayLike, diameter_mm: float, margin_mm: float
) -> vtkMRMLModelNode:
    """Show in slice views how far the safety margin of a line reaches."""
    node = _model_of(line, _MARGIN, "Safety margin")
    mesh = _tube_of(node, len(np.asarray(points_ras)))
    _move_tube(mesh, np.asarray(points_ras, float), diameter_mm / 2 + margin_mm)
    mesh.Modified()
    # It says something only together with its line, so it does not stand in lists of models.
    node.SetHideFromEditors(True)
    display = node.GetDisplayNode()
    display.SetColor(*VERDICT_COLORS[NEAR])
    display.SetVisibility3D(False)
    return node


def show_cement(line: vtkMRMLMarkupsLineNode, depots: Iterable[Depot]) -> vtkMRMLModelNode | None:
    """Show each depot of a line as the sphere of its volume; None without any cement."""
    append = vtk.vtkAppendPolyData()
    count = 0
    for depot in depots:
        radius_mm = sphere_radius_mm(depot.volume_ml)
        if radius_mm > 0:
            sphere = vtk.vtkSphereSource()
            sphere.SetCenter(*depot.position_ras)
            sphere.SetRadius(radius_mm)
            sphere.SetThetaResolution(32)
            sphere.SetPhiResolution(24)
            append.AddInputConnection(sphere.GetOutputPort())
            count += 1
    if not count:
        _remove(line, _CEMENT)
        return None
    append.Update()
    node = _model_of(line, _CEMENT, "Cement")
    node.SetAndObservePolyData(append.GetOutput())
    display = node.GetDisplayNode()
    display.SetColor(*color_of("cement"))
    display.SetOpacity(0.4)
    return node


def show_models(line: vtkMRMLMarkupsLineNode, visible: bool, margin: bool = False, cement: bool = True) -> None:
    """Show or hide a line's models; where they are shown, its safety margin and its cement on their own."""
    for role, wanted in ((_SHAFT, True), (_MARGIN, margin), (_CEMENT, cement)):
        node = line.GetNodeReference(role)
        if node is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(visible and wanted)


def remove_models(line: vtkMRMLMarkupsLineNode) -> None:
    """Take a line's models out of the scene."""
    for role in _ROLES:
        _remove(line, role)


def shaft_of(line: vtkMRMLMarkupsLineNode) -> vtkMRMLModelNode | None:
    """The model of a line's shaft."""
    node = line.GetNodeReference(_SHAFT)
    return node if isinstance(node, vtkMRMLModelNode) else None


def _remove(line: vtkMRMLMarkupsLineNode, role: str) -> None:
    node = line.GetNodeReference(role)
    if node is not None:
        line.GetScene().RemoveNode(node)


def _model_of(line: vtkMRMLMarkupsLineNode, role: str, what: str) -> vtkMRMLModelNode:
    node = line.GetNodeReference(role)
    if not isinstance(node, vtkMRMLModelNode):
        node = add_model(line.GetScene(), vtk.vtkPolyData(), f"{line.GetName()}: {what}", (1.0, 1.0, 1.0))
        node.SetSelectable(False)
        line.SetNodeReferenceID(role, node.GetID())
    return node


def _tube_of(node: vtkMRMLModelNode, rings: int) -> vtk.vtkPolyData:
    """The mesh of a tube with this many rings, made anew only when their number changes."""
    mesh = node.GetPolyData()
    if mesh is not None and mesh.GetNumberOfPoints() == rings * _SIDES + 2:
        return mesh
    ring, next_side = np.arange(rings - 1)[:, None] * _SIDES, (np.arange(_SIDES) + 1) % _SIDES
    low, high = ring + np.arange(_SIDES), ring + next_side
    quads = np.stack([low, high, high + _SIDES, low + _SIDES], axis=-1).reshape(-1, 4)
    first, last = rings * _SIDES, rings * _SIDES + 1
    ends = []
    for center, start in ((first, 0), (last, (rings - 1) * _SIDES)):
        side = start + np.arange(_SIDES)
        ends.append(np.stack([np.full(_SIDES, center), side, start + next_side], axis=-1))
    cells = np.concatenate(
        [np.insert(quads, 0, 4, axis=1).ravel(), *(np.insert(end, 0, 3, axis=1).ravel() for end in ends)]
    )
    polys = vtk.vtkCellArray()
    polys.ImportLegacyFormat(numpy_to_vtkIdTypeArray(cells, deep=True))
    mesh = vtk.vtkPolyData()
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.zeros((rings * _SIDES + 2, 3), np.float32), deep=True))
    mesh.SetPoints(points)
    mesh.SetPolys(polys)
    node.SetAndObservePolyData(mesh)
    return node.GetPolyData()


def _move_tube(mesh: vtk.vtkPolyData, axis_ras: FloatArray, radius_mm: float) -> None:
    direction = unit(axis_ras[-1] - axis_ras[0])
    across = perpendicular(direction)
    circle = np.outer(np.cos(_CIRCLE), across) + np.outer(np.sin(_CIRCLE), np.cross(direction, across))
    rings = (axis_ras[:, None, :] + radius_mm * circle).reshape(-1, 3)
    vtk_to_numpy(mesh.GetPoints().GetData())[:] = np.concatenate([rings, axis_ras[[0, -1]]])
    mesh.GetPoints().Modified()


def _set_array(mesh: vtk.vtkPolyData, name: str, values: NDArray) -> None:
    array = mesh.GetPointData().GetArray(name)
    if array is None:
        array = numpy_to_vtk(values, deep=True)
        array.SetName(name)
        mesh.GetPointData().AddArray(array)
    else:
        vtk_to_numpy(array)[:] = values
        array.Modified()


def _colors(scene: vtkMRMLScene) -> vtkMRMLNode:
    """The color table of the verdicts, one for the scene."""
    node = first_node(scene, "vtkMRMLColorTableNode", _COLORS_NAME)
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLColorTableNode", _COLORS_NAME)
        assert isinstance(node, vtkMRMLColorTableNode)
        node.SetTypeToUser()
        node.SetNumberOfColors(len(VERDICT_COLORS))
        for verdict, color in VERDICT_COLORS.items():
            node.SetColor(verdict, _VERDICT_NAMES[verdict], *color, 1.0)
    return node
