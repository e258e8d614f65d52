"""What guidance shows in the views of Slicer: the trocar in true width, its error around it, and slices that follow it.

The models hang under the tip's transform, so that they move with it without being made again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import vtk
from numpy.typing import ArrayLike
from vtk.util.numpy_support import numpy_to_vtk

from slicer import vtkMRMLLinearTransformNode, vtkMRMLModelNode, vtkMRMLScene

from ..geometry import FloatArray, rigid
from ..navigation.clearance import ASSURED_SIGMAS
from ..navigation.error_model import ellipsoid
from ..navigation.guidance import GuidanceReading
from ..navigation.sketch import axis_view, deviation_color
from ..planning.model import Trajectory
from ..planning.pose_uncertainty import PoseUncertainty
from .nodes import add_model, first_node

TROCAR_NAME, SHAFT_NAME, TIP_NAME = "Live trocar", "Live trocar with its error", "Live error of the tip"
#: Slice views: down the axis, and along it in two planes.
_DOWN, _ALONG = "Red", ("Yellow", "Green")
_RINGS, _SIDES = 24, 24


class GuidanceDisplay:
    """Models of one live trocar. Nothing is shown before the first valid reading, and nothing without one."""

    def __init__(self, scene: vtkMRMLScene, tip: vtkMRMLLinearTransformNode) -> None:
        self._scene, self._tip = scene, tip
        self._shown_for: tuple[object, ...] = ()

    def show(
        self, reading: GuidanceReading, trajectory: Trajectory | None, uncertainty: PoseUncertainty | None
    ) -> None:
        """Bring the models up to date; hide them when there is no guidance."""
        visible = reading.valid and trajectory is not None and uncertainty is not None
        if visible and self._shown_for != (id(uncertainty), id(trajectory)):
            assert trajectory is not None and uncertainty is not None
            self._make(reading, trajectory, uncertainty)
            self._shown_for = (id(uncertainty), id(trajectory))
        color = np.array(deviation_color(reading.offset_from_line_mm or 0.0, reading.angle_deg or 0.0)) / 255
        for name in (TROCAR_NAME, SHAFT_NAME, TIP_NAME):
            node = first_node(self._scene, "vtkMRMLModelNode", name)
            display = node.GetDisplayNode() if node is not None else None
            if display is None:
                continue
            if bool(display.GetVisibility()) != visible:
                display.SetVisibility(visible)
            if visible and not np.allclose(display.GetColor(), color):
                display.SetColor(*color)

    def close(self) -> None:
        """Take the models away."""
        for name in (TROCAR_NAME, SHAFT_NAME, TIP_NAME):
            node = first_node(self._scene, "vtkMRMLModelNode", name)
            if node is not None:
                self._scene.RemoveNode(node)

    def _make(self, reading: GuidanceReading, trajectory: Trajectory, uncertainty: PoseUncertainty) -> None:
        assert reading.tip_ras is not None and reading.ahead_ras is not None
        radius, length = trajectory.outer_diameter_mm / 2, trajectory.length_mm
        along = np.linspace(0, length, _RINGS)
        shaft = reading.tip_ras - along[:, None] * reading.ahead_ras
        widest = np.sqrt(np.linalg.eigvalsh(uncertainty.covariance_at(shaft))[:, -1])
        at_tip = ellipsoid(uncertainty.covariance_at(reading.tip_ras))
        # Into the tip's frame, whose z axis points ahead. A turn about it leaves a round shaft as it is, and the
        # ellipsoid nearly so; it is made anew when the trocar moves.
        matrix = vtk.vtkMatrix4x4()
        self._tip.GetMatrixTransformToWorld(matrix)
        RASToTip = np.array([[matrix.GetElement(i, j) for j in range(3)] for i in range(3)]).T
        self._put(TROCAR_NAME, tube(-along, np.full(_RINGS, radius)), 1.0)
        self._put(SHAFT_NAME, tube(-along, radius + ASSURED_SIGMAS * widest), 0.25)
        self._put(TIP_NAME, _ball(RASToTip @ at_tip.axes * at_tip.radii_mm), 0.35)

    def _put(self, name: str, mesh: vtk.vtkPolyData, opacity: float) -> vtkMRMLModelNode:
        node = first_node(self._scene, "vtkMRMLModelNode", name)
        if node is None:
            node = add_model(self._scene, mesh, name, (1.0, 1.0, 1.0))
            # Of a moment; a saved case shows trocars as they were left.
            node.SetSaveWithScene(False)
            node.GetDisplayNode().SetOpacity(opacity)
            node.GetDisplayNode().SetSliceIntersectionThickness(2)
            node.SetAndObserveTransformNodeID(self._tip.GetID())
        else:
            node.SetAndObservePolyData(mesh)
        return node


def tube(z_mm: ArrayLike, radii_mm: ArrayLike) -> vtk.vtkPolyData:
    """A round body along the z axis, of these radii at these places (n,), closed at both ends."""
    z, radii = np.asarray(z_mm, float), np.asarray(radii_mm, float)
    turn = np.linspace(0, 2 * np.pi, _SIDES, endpoint=False)
    rings = np.stack(
        [np.outer(radii, np.cos(turn)), np.outer(radii, np.sin(turn)), np.repeat(z[:, None], _SIDES, axis=1)], axis=-1
    )
    first = np.arange(len(z) - 1)[:, None] * _SIDES + np.arange(_SIDES)
    following = np.arange(len(z) - 1)[:, None] * _SIDES + (np.arange(_SIDES) + 1) % _SIDES
    quads = np.stack([first, following, following + _SIDES, first + _SIDES], axis=-1).reshape(-1, 4)
    mesh = _mesh(rings.reshape(-1, 3), quads)
    for ring in (np.arange(_SIDES)[::-1], (len(z) - 1) * _SIDES + np.arange(_SIDES)):
        mesh.GetPolys().InsertNextCell(_SIDES, ring.tolist())
    return mesh


def follow_in_slice_views(
    scene: vtkMRMLScene, tip_ras: FloatArray, ahead_ras: FloatArray, names: Sequence[str] = (_DOWN, *_ALONG)
) -> bool:
    """Turn the slice views to the trocar: the first looks down its axis at the tip, the others hold its whole length.

    False when the scene has no such views (a plain headless host).
    """
    right, up = axis_view(ahead_ras)
    # Normal and horizontal direction of each view; the picture's left is the patient's right, as for the surgeon.
    turns = ((-np.asarray(ahead_ras), right), (right, ahead_ras), (up, ahead_ras))
    shown = []
    for name, (normal, across) in zip(names, turns, strict=True):
        node = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if node is not None:
            node.SetSliceToRASByNTP(*map(float, normal), *map(float, across), *map(float, tip_ras), 0)
            shown.append(name)
    return bool(shown)


def _ball(axes_mm: FloatArray) -> vtk.vtkPolyData:
    """An ellipsoid about the origin; its half axes are the columns."""
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(1.0)
    sphere.SetThetaResolution(24)
    sphere.SetPhiResolution(16)
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(rigid(axes_mm, np.zeros(3)).ravel().tolist())
    transform = vtk.vtkTransform()
    transform.SetMatrix(matrix)
    turned = vtk.vtkTransformPolyDataFilter()
    turned.SetTransform(transform)
    turned.SetInputConnection(sphere.GetOutputPort())
    turned.Update()
    return turned.GetOutput()


def _mesh(points: FloatArray, quads: FloatArray) -> vtk.vtkPolyData:
    made = vtk.vtkPolyData()
    places = vtk.vtkPoints()
    places.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    made.SetPoints(places)
    polys = vtk.vtkCellArray()
    for quad in quads.tolist():
        polys.InsertNextCell(4, quad)
    made.SetPolys(polys)
    return made
