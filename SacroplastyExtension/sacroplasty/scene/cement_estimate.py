"""The cement as the live views show it, in three dimensions: a surface in the 3D view, its outline in the slices."""

from __future__ import annotations

import math
from typing import get_args

from slicer import vtkMRMLModelNode, vtkMRMLScene

from ..cement.estimate import FILLED_SHARE, CementEstimate, CementEstimator
from ..cement.monitor import SpreadMonitor
from ..planning.model import Side
from .nodes import add_model, first_node
from .spread import surface_around

#: How often the estimate is made anew [s].
_PERIOD_S = 1.0

#: Other than that of the predicted cement.
_COLOR, _OPACITY = (0.2, 0.85, 0.95), 0.6


class LiveEstimate:
    """Keeps the surface of one side up to date while the monitor watches."""

    def __init__(self, scene: vtkMRMLScene) -> None:
        self._scene = scene
        self._monitor: SpreadMonitor | None = None
        self._estimator: CementEstimator | None = None
        self._made_s = -math.inf
        self.estimate: CementEstimate | None = None

    def tick(self, monitor: SpreadMonitor | None, side: Side, given_ml: float, now_s: float) -> None:
        """Make the estimate anew when it is time. A blind monitor leaves the last one as it is.

        Args:
            monitor: None while none watches; one without zones or tip cannot place cement.
            given_ml: by the pump since the views were learned; NaN when not known.
        """
        if monitor is None or monitor.zones is None or monitor.tip_ras is None or now_s - self._made_s < _PERIOD_S:
            return
        shadows = monitor.shadows()
        if not shadows:
            return
        self._made_s = now_s
        if self._estimator is None or monitor is not self._monitor or set(shadows) - set(self._estimator.views):
            geometries = {view: shadow.geometry for view, shadow in shadows.items()}
            self._monitor, self._estimator = monitor, CementEstimator(monitor.zones, monitor.tip_ras, geometries)
        self.estimate = self._estimator.estimate(shadows, given_ml)
        show_estimate(self._scene, side, self.estimate)


def show_estimate(scene: vtkMRMLScene, side: Side, estimate: CementEstimate) -> vtkMRMLModelNode:
    """Show an estimate in place of an older one of the side."""
    mesh = surface_around(estimate.occupancy, FILLED_SHARE)
    model = first_node(scene, "vtkMRMLModelNode", _name(side))
    if model is None:
        model = add_model(scene, mesh, _name(side), _COLOR)
        model.GetDisplayNode().SetOpacity(_OPACITY)
        model.GetDisplayNode().SetSliceIntersectionThickness(2)
    else:
        model.SetAndObservePolyData(mesh)
    return model


def hide_estimate(scene: vtkMRMLScene, side: Side) -> None:
    """Take a side's estimate out of the scene."""
    model = first_node(scene, "vtkMRMLModelNode", _name(side))
    if model is not None:
        scene.RemoveNode(model)


def set_estimates_visible(scene: vtkMRMLScene, visible: bool) -> None:
    """Show the estimates of both sides in slices and in 3D, or not; they are kept up to date all the same."""
    for side in get_args(Side):
        model = first_node(scene, "vtkMRMLModelNode", _name(side))
        display = model.GetDisplayNode() if model is not None else None
        if display is not None and bool(display.GetVisibility()) != visible:
            display.SetVisibility(visible)


def _name(side: Side) -> str:
    return f"Cement seen {side}"
