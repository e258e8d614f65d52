"""The curves of the injection as a table and a chart of Slicer, so that a saved scene has them."""

from __future__ import annotations

from collections.abc import Sequence

import vtk

from slicer import vtkMRMLPlotChartNode, vtkMRMLScene

from ..procedure.injection_session import Sample
from .nodes import first_node

TABLE_NAME = "Sacroplasty injection"
#: Columns by their names in the table, with the color of their curve; pressure in MPa, so that all fit one axis.
_COLUMNS = {"given (mL)": (0.0, 0.32, 0.64), "flow (mL/min)": (0.0, 0.44, 0.35), "pressure (MPa)": (0.69, 0.35, 0.0)}
_TIME = "time (s)"


def show_curves(scene: vtkMRMLScene, samples: Sequence[Sample]) -> vtkMRMLPlotChartNode:
    """Put the samples into the scene's table and chart, which are made when they are not there yet."""
    table = first_node(scene, "vtkMRMLTableNode", TABLE_NAME)
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", TABLE_NAME)
    begin_s = samples[0].time_s if samples else 0.0
    rows = [(one.time_s - begin_s, one.given_ml, 60 * one.rate_ml_s, one.pressure_kpa / 1000) for one in samples]
    columns = []
    for number, name in enumerate((_TIME, *_COLUMNS)):
        column = vtk.vtkDoubleArray()
        column.SetName(name)
        for row in rows:
            column.InsertNextValue(row[number])
        columns.append(column)
    table.RemoveAllColumns()
    for column in columns:
        table.AddColumn(column)
    chart = first_node(scene, "vtkMRMLPlotChartNode", TABLE_NAME)
    return chart if chart is not None else _new_chart(scene, table.GetID())


def _new_chart(scene: vtkMRMLScene, table_id: str) -> vtkMRMLPlotChartNode:
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", TABLE_NAME)
    chart.SetTitle("Injection")
    chart.SetXAxisTitle(_TIME)
    for name, color in _COLUMNS.items():
        series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table_id)
        series.SetXColumnName(_TIME)
        series.SetYColumnName(name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetColor(*color)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return chart
