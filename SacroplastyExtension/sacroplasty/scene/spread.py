"""The predicted spread in the scene: its probability over the slices, surfaces around it, and the table of leaks.

Beside it, other ways to give the same cement, by their leaks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from slicer import vtkMRMLModelNode, vtkMRMLScalarVolumeNode, vtkMRMLScene

from ..cement.line import InjectionLine
from ..cement.prediction import SpreadPrediction, predict_spread
from ..cement.presets import CementPreset
from ..errors import AnatomyError
from ..image import Volume
from ..planning.depots import Way
from ..planning.model import Depot, Side
from ..planning.pose_uncertainty import PoseUncertainty
from ..procedure.conduct import PRESSURE_LIMIT_KPA
from .anatomy import anatomy_of, readable, segmented_ct
from .nodes import add_model, add_volume, first_node, segment_names, set_volume, shape_digest, volume_of
from .planning import clearance_key
from .records import read_record, write_record

RECORD_NAME = "Sacroplasty spread"

#: Surfaces around voxels that are cement in at least this share of the ensemble, with their color and opacity.
SURFACES = {0.5: ((1.0, 0.55, 0.65), 0.3), 0.9: ((0.8, 0.05, 0.25), 0.7)}

#: Less probable cement than this is not drawn over the slices.
_SHOWN_FROM = 0.05

#: How much the probability hides of the image beneath it.
_OVERLAY_OPACITY = 0.5

#: A table of Slicer's own, from dark to bright.
_COLORS = "vtkMRMLColorTableNodeIron"

#: Tips and volumes this near are the same.
_SAME_MM, _SAME_ML = 0.5, 0.05


@dataclass(frozen=True)
class LeakRow:
    """A route in the table, most probable first.

    Attributes:
        route: in words.
        probability, interval: of a leak, with its 95 % interval.
        from_ml: volume at which a tenth of the leaks has begun; None without any.
        distance_mm: of the cement in intact bone; None for veins and what is far off.
        at_risk_ml: volume at which no more than 2 mm are left; None when it never is.
    """

    route: str
    probability: float
    interval: tuple[float, float]
    from_ml: float | None
    distance_mm: float | None
    at_risk_ml: float | None


@dataclass(frozen=True)
class WaySummary:
    """Leaks of one way to give the cement.

    Attributes:
        depots_ml: volume through each place of the tip.
        any_leak: probability of a leak by any route.
        route: most probable one in words; empty without any leak.
    """

    depots_ml: tuple[float, ...]
    any_leak: float
    route: str


@dataclass(frozen=True)
class SpreadSummary:
    """What the page shows of a prediction.

    Attributes:
        any_leak: probability of a leak by any route.
        pressure_text: of the line over the working time, with its warning.
        rows: routes that leaked in the ensemble or come near.
        others: other ways to give the cement, in the same simulated bones.
    """

    volume_ml: float
    room_ml: float
    in_plan_fraction: float
    members: int
    any_leak: float
    pressure_text: str
    warning: str
    rows: tuple[LeakRow, ...]
    others: dict[Way, WaySummary]


def predict(
    scene: vtkMRMLScene,
    side: Side,
    depots: Sequence[Depot],
    line: InjectionLine,
    preset: CementPreset,
    flow_ml_s: float = 0.05,
    members: int = 32,
    cavity: Volume | None = None,
    pose: PoseUncertainty | None = None,
    others: Mapping[Way, Sequence[Depot]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> SpreadSummary:
    """Predict where the cement of a planned tip, or of a tip as it stands, goes, and show it in place of an older one.

    Args:
        cavity, pose: of a balloon, and how uncertain a navigated tip is, see `predict_spread`.
        others: other ways to give the cement, to be compared with this one.
        progress: called with the share done; may raise to end it, and then the scene is as before.

    Raises:
        AnatomyError: without a segmented CT in the scene.
        PlanError: when a tip is not in bone, or a figure is impossible.
    """
    ct_node, segmentation = segmented_ct(scene)
    if segmentation is None or ct_node is None:
        raise AnatomyError("the spread needs the segmented CT; run the segmentation first")
    anatomy, ct = anatomy_of(scene, segmentation, ct_node), volume_of(ct_node)
    ways: dict[Way, Sequence[Depot]] = {"planned": depots, **(others or {})}
    segments = _shapes(scene)
    predictions: dict[Way, SpreadPrediction] = {}
    for number, (way, through) in enumerate(ways.items()):
        predictions[way] = predict_spread(
            ct,
            anatomy,
            through,
            side,
            line,
            preset,
            flow_ml_s,
            members=members,
            limit_kpa=PRESSURE_LIMIT_KPA,
            cavity=cavity,
            pose=pose,
            progress=_part_of(progress, number, len(ways)),
        )
    show(scene, side, predictions.pop("planned"), predictions, segments)
    found = summary(scene, side)
    assert found is not None
    return found


def _part_of(progress: Callable[[float], None] | None, number: int, count: int) -> Callable[[float], None] | None:
    """Tell the progress of one of several parts as that of the whole."""
    return None if progress is None else lambda share: progress((number + share) / count)


def show(
    scene: vtkMRMLScene,
    side: Side,
    prediction: SpreadPrediction,
    others: Mapping[Way, SpreadPrediction],
    segments: Mapping[str, str],
) -> None:
    """Show a prediction in place of an older one of the side; of other ways to give the cement, their leaks.

    Args:
        segments: digests of the shapes that it was made in.
    """
    probability = _probability_node(scene, side)
    if probability is None:
        probability = add_volume(scene, prediction.probability, _volume_name(side))
        # An overlay is no image that a person could take for the CT.
        probability.SetHideFromEditors(True)
    else:
        set_volume(probability, prediction.probability)
    display = probability.GetDisplayNode()
    display.SetAndObserveColorNodeID(_COLORS)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.AutoThresholdOff()
    display.ApplyThresholdOn()
    display.SetThreshold(_SHOWN_FROM, 1.0)
    for share, (color, opacity) in SURFACES.items():
        # Between two members, so that the surface does not hang on the rounding of a share.
        mesh = surface_around(prediction.probability, share - 1e-3)
        model = _surface_node(scene, side, share)
        if model is None:
            model = add_model(scene, mesh, _surface_name(side, share), color)
            model.GetDisplayNode().SetOpacity(opacity)
        else:
            model.SetAndObservePolyData(mesh)
    record = read_record(scene, RECORD_NAME) or {}
    ways = {way: _way_record(other) for way, other in others.items()}
    one = _record_of(prediction) | {"others": ways, "segments": dict(segments)}
    write_record(scene, RECORD_NAME, record | {side: one})


def hide(scene: vtkMRMLScene, side: Side) -> None:
    """Take a side's prediction out of the scene: its overlay, surfaces and table."""
    nodes = [_probability_node(scene, side), *(_surface_node(scene, side, share) for share in SURFACES)]
    for node in nodes:
        if node is not None:
            scene.RemoveNode(node)
    record = read_record(scene, RECORD_NAME) or {}
    if side in record:
        write_record(scene, RECORD_NAME, {other: one for other, one in record.items() if other != side})


def set_visible(scene: vtkMRMLScene, side: Side, visible: bool) -> None:
    """Show or hide the surfaces of a prediction, and its probability over the slices."""
    for share in SURFACES:
        model = _surface_node(scene, side, share)
        if model is not None:
            model.SetDisplayVisibility(visible)
    overlay(scene, side, _OVERLAY_OPACITY if visible else 0.0)


def overlay(scene: vtkMRMLScene, side: Side, opacity: float) -> None:
    """Lay the probability over all slice views; 0 takes it away and leaves another foreground alone."""
    probability = _probability_node(scene, side)
    if probability is None:
        return
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        composite = scene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode")
        if opacity > 0:
            composite.SetForegroundVolumeID(probability.GetID())
            composite.SetForegroundOpacity(opacity)
        elif composite.GetForegroundVolumeID() == probability.GetID():
            composite.SetForegroundVolumeID(None)


def summary(scene: vtkMRMLScene, side: Side) -> SpreadSummary | None:
    """The prediction of a side that the scene holds, or None."""
    one = (read_record(scene, RECORD_NAME) or {}).get(side)
    if one is None:
        return None
    rows = tuple(
        LeakRow(
            route=readable(row["route"]),
            probability=row["probability"],
            interval=(row["interval"][0], row["interval"][1]),
            from_ml=row["earliest_ml"],
            distance_mm=row["distance_mm"],
            at_risk_ml=row["volume_at_risk_ml"],
        )
        for row in one["risks"]
        if row["probability"] > 0 or row["volume_at_risk_ml"] is not None
    )
    return SpreadSummary(
        volume_ml=sum(depot["volume_ml"] for depot in one["depots"]),
        room_ml=one["room_ml"],
        in_plan_fraction=one["in_plan_fraction"],
        members=one["members"],
        any_leak=one["any_leak"],
        pressure_text=f"{one['pressure']['begin_kpa']:.0f} to {one['pressure']['end_kpa']:.0f} kPa",
        warning=one["pressure"]["text"],
        rows=rows,
        others={
            way: WaySummary(
                tuple(other["depots_ml"]), other["any_leak"], readable(other["route"]) if other["route"] else ""
            )
            for way, other in one.get("others", {}).items()
        },
    )


def is_of(scene: vtkMRMLScene, side: Side, depots: Sequence[Depot]) -> bool:
    """Whether the prediction that is shown is of these depots, in the segments as they are now.

    One of another tip, or from before a segment was corrected, must not be believed.
    """
    one = (read_record(scene, RECORD_NAME) or {}).get(side)
    if one is None or len(one["depots"]) != len(depots):
        return False
    same = all(
        float(np.linalg.norm(np.asarray(shown["position_ras"]) - np.asarray(depot.position_ras, float))) <= _SAME_MM
        and abs(shown["volume_ml"] - depot.volume_ml) <= _SAME_ML
        for shown, depot in zip(one["depots"], depots, strict=True)
    )
    return same and one.get("segments", {}) == _shapes(scene)


#: The shapes that were asked for last: looking at all voxels takes longer than a page that counts volume has time.
_last_shapes: tuple[tuple[object, ...], dict[str, str]] = ((), {})


def _shapes(scene: vtkMRMLScene) -> dict[str, str]:
    """Digests of the segments' shapes, by name."""
    global _last_shapes
    ct_node, segmentation = segmented_ct(scene)
    if segmentation is None or ct_node is None:
        return {}
    names, key = segment_names(segmentation), clearance_key(segmentation, ct_node)
    if _last_shapes[0] != key or list(_last_shapes[1]) != names:
        _last_shapes = key, {name: shape_digest(segmentation, name) for name in names}
    return _last_shapes[1]


def _way_record(prediction: SpreadPrediction) -> dict[str, Any]:
    first = next(iter(prediction.risks))
    return {
        "depots_ml": [depot.volume_ml for depot in prediction.depots],
        "any_leak": prediction.any_leak,
        "route": first if prediction.risks[first].probability > 0 else "",
    }


def _record_of(prediction: SpreadPrediction) -> dict[str, Any]:
    return {
        "depots": [asdict(depot) for depot in prediction.depots],
        "room_ml": prediction.room_ml,
        "in_plan_fraction": prediction.in_plan_fraction,
        "members": prediction.members,
        "any_leak": prediction.any_leak,
        "pressure": asdict(prediction.pressure),
        "risks": [
            {"route": route, **asdict(risk), "distance_mm": risk.distance_mm if np.isfinite(risk.distance_mm) else None}
            for route, risk in prediction.risks.items()
        ],
    }


def surface_around(shares: Volume, level: float) -> vtk.vtkPolyData:
    """Smooth surface in RAS around where a volume is above a level, closed where the grid ends.

    Args:
        shares: on a grid along the RAS axes.
    """
    padded = np.pad(shares.voxels, 1)
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(padded.shape))
    image.SetSpacing(*shares.spacing_mm)
    image.SetOrigin(*(shares.IJKToRAS[:3, 3] - shares.spacing_mm))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(padded).ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    # Without them the surface keeps its own color.
    edges.ComputeScalarsOff()
    edges.SetValue(0, level)
    edges.Update()
    if not edges.GetOutput().GetNumberOfPoints():
        return edges.GetOutput()
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(edges.GetOutputPort())
    smooth.SetNumberOfIterations(15)
    smooth.SetPassBand(0.1)
    smooth.NormalizeCoordinatesOn()
    smooth.Update()
    return smooth.GetOutput()


def _volume_name(side: Side) -> str:
    return f"Predicted cement {side}"


def _surface_name(side: Side, share: float) -> str:
    return f"Predicted cement {side} {100 * share:.0f} %"


def _probability_node(scene: vtkMRMLScene, side: Side) -> vtkMRMLScalarVolumeNode | None:
    return first_node(scene, "vtkMRMLScalarVolumeNode", _volume_name(side))


def _surface_node(scene: vtkMRMLScene, side: Side, share: float) -> vtkMRMLModelNode | None:
    return first_node(scene, "vtkMRMLModelNode", _surface_name(side, share))
