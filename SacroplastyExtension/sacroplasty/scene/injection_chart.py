"""Curves over time as a table and a chart of Slicer, so that a saved scene has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from slicer import vtkMRMLPlotChartNode, vtkMRMLScene

from ..procedure.injection_session import Sample
from .nodes import first_node

TABLE_NAME = "Sacroplasty injection"
_TIME = "time (s)"


@dataclass(frozen=True)
class Curve:
    """A named column with the color of its curve (0 to 1)."""

    name: str
    color: tuple[float, float, float]
    values: Sequence[float]


def show_curves(scene: vtkMRMLScene, samples: Sequence[Sample]) -> vtkMRMLPlotChartNode:
    """The samples of an injection; pressure in MPa, so that all fit one axis."""
    curves = [
        Curve("given (mL)", (0.0, 0.32, 0.64), [one.given_ml for one in samples]),
        Curve("flow (mL/min)", (0.0, 0.44, 0.35), [60 * one.rate_ml_s for one in samples]),
        Curve("pressure (MPa)", (0.69, 0.35, 0.0), [one.pressure_kpa / 1000 for one in samples]),
    ]
    return show_chart(scene, TABLE_NAME, [one.time_s for one in samples], curves)


def show_chart(
    scene: vtkMRMLScene, name: str, times_s: Sequence[float], curves: Sequence[Curve]
) -> vtkMRMLPlotChartNode:
    """Put curves into the table and the chart of this name, which are made when they are not there yet.

    Args:
        times_s: on any clock; shown from 0 on.
    """
    table = first_node(scene, "vtkMRMLTableNode", name)
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    since_s = np.asarray(times_s, float) - (times_s[0] if times_s else 0.0)
    table.RemoveAllColumns()
    for title, values in ((_TIME, since_s), *((one.name, one.values) for one in curves)):
        column = numpy_to_vtk(np.asarray(values, float), deep=True, array_type=vtk.VTK_DOUBLE)
        column.SetName(title)
        table.AddColumn(column)
    chart = first_node(scene, "vtkMRMLPlotChartNode", name)
    return chart if chart is not None else _new_chart(scene, name, table.GetID(), curves)


def _new_chart(scene: vtkMRMLScene, name: str, table_id: str, curves: Sequence[Curve]) -> vtkMRMLPlotChartNode:
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    chart.SetTitle(name)
    chart.SetXAxisTitle(_TIME)
    for curve in curves:
        series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", curve.name)
        series.SetAndObserveTableNodeID(table_id)
        series.SetXColumnName(_TIME)
        series.SetYColumnName(curve.name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetColor(*curve.color)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return chart
