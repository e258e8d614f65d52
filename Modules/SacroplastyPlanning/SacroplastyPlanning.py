import enum
import importlib.util
import os
import sys
from typing import Annotated

import qt
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastyPlanning
#


class SacroplastyPlanning(ScriptedLoadableModule):
    """Trocar trajectories into the sacral alae, with the clearance of the whole shaft."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Planning")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Searches trocar trajectories whose whole shaft keeps its distance from canal, foramina, joint and "
            "anterior cortex, and says why a trajectory is refused. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


class Canceled(Exception):
    """The person pressed Cancel in the progress dialog."""


class Technique(enum.Enum):
    """How the trocar reaches the ala; the values are those of the engine."""

    SHORT_AXIS = "short-axis"
    LONG_AXIS = "long-axis"
    DOUBLE_NEEDLE = "double-needle"

    def label(self):
        return {
            Technique.SHORT_AXIS: _("Short axis (posterolateral)"),
            Technique.LONG_AXIS: _("Long axis (parallel to the ala)"),
            Technique.DOUBLE_NEEDLE: _("Double needle (one per ala)"),
        }[self]


#
# SacroplastyPlanningParameterNode
#


@parameterNodeWrapper
class SacroplastyPlanningParameterNode:
    """
    ct, segmentation - What to plan on.
    left, right - The sides to plan.
    technique, gauge - The approach and the trocar.
    marginMm - Smallest clearance of the shaft that is accepted.
    """

    ct: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    left: bool = True
    right: bool = True
    technique: Technique = Technique.SHORT_AXIS
    gauge: Annotated[int, Choice([11, 13])] = 11
    marginMm: Annotated[float, WithinRange(1.0, 10.0)] = 3.0


#
# SacroplastyPlanningWidget
#


class SacroplastyPlanningWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._line = None
        self._clearance = None
        self._clearanceOf = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyPlanning.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyPlanningLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        header = self.ui.trajectoriesTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(2, qt.QHeaderView.Stretch)
        self.ui.clearanceTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self.ui.planButton.connect("clicked(bool)", self.onPlanButton)
        self.ui.trajectoriesTable.connect("itemSelectionChanged()", self.onTrajectorySelected)
        self.ui.moveCheckBox.connect("clicked(bool)", self.onMoveCheckBox)
        self.ui.exportButton.connect("clicked(bool)", self.onExportButton)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()

    def exit(self):
        """Called each time the user opens a different module."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists, is observed and names CT and segmentation if there are any."""
        self.setParameterNode(self.logic.getParameterNode())
        ct, segmentation = self.logic.segmentedCT()
        if not self._parameterNode.segmentation:
            self._parameterNode.segmentation = segmentation
        if not self._parameterNode.ct:
            self._parameterNode.ct = ct
        self.showPlan()

    def setParameterNode(self, inputParameterNode):
        """Set and observe the parameter node; None to let go of it and of the observed line."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.observeLine(None)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def observeLine(self, line):
        """Follow one line as it is dragged."""
        if self._line:
            self.removeObserver(self._line, slicer.vtkMRMLMarkupsNode.PointModifiedEvent, self.onLineMoved)
        self._line = line
        if self._line:
            self.addObserver(self._line, slicer.vtkMRMLMarkupsNode.PointModifiedEvent, self.onLineMoved)

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        if not (parameters.ct and parameters.segmentation):
            self.ui.planButton.toolTip = _("Select a CT and its segmentation.")
        elif not (parameters.left or parameters.right):
            self.ui.planButton.toolTip = _("Choose at least one side.")
        else:
            self.ui.planButton.toolTip = _("Search trajectories on the chosen sides.")
        self.ui.planButton.enabled = bool(
            parameters.ct and parameters.segmentation and (parameters.left or parameters.right)
        )

    def onPlanButton(self):
        """Plan, with the progress shown in a dialog that can cancel it."""
        self.ui.planButton.enabled = False
        parameters = self._parameterNode
        sides = [side for side in ("left", "right") if parameters.getValue(side)]
        try:
            with slicer.util.tryWithErrorDisplay(_("No plan was made.")):
                self.withProgress(
                    _("Searching trajectories…"),
                    lambda progress: self.logic.plan(
                        parameters.ct,
                        parameters.segmentation,
                        sides,
                        parameters.technique.value,
                        parameters.gauge,
                        parameters.marginMm,
                        progress,
                    ),
                )
        finally:
            self.onParametersModified()
            self.showPlan()

    def withProgress(self, text, work):
        """Result of work(progress) with a dialog that shows how far it is, or None when it was canceled."""
        dialog = slicer.util.createProgressDialog(
            labelText=text, windowTitle=_("Sacroplasty Planning"), windowModality=qt.Qt.WindowModal
        )
        try:
            return work(lambda fraction: self.showProgress(dialog, fraction))
        except Canceled:
            return None
        finally:
            dialog.close()

    def showProgress(self, dialog, fraction):
        """Tell how far it is, let Slicer breathe, and end it if the person wants that."""
        dialog.value = round(100 * fraction)
        slicer.app.processEvents()
        if dialog.wasCanceled:
            raise Canceled

    def showPlan(self):
        """Fill the table of trajectories from the scene."""
        rows = self.logic.trajectories()
        table = self.ui.trajectoriesTable
        table.clearSelection()
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            texts = (
                _("Left") if row.side == "left" else _("Right"),
                _("✔ accepted") if row.accepted else _("✘ refused"),
                f"{self.logic.readable(row.nearest)} {row.nearest_mm:.1f} mm" if row.nearest else "–",
                f"{row.length_mm:.0f}",
                f"{row.planned_volume_ml:.1f}",
            )
            for column, text in enumerate(texts):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        accepted = {row.side for row in rows if row.accepted}
        wanted = {row.side for row in rows}
        if not rows:
            self.ui.statusLabel.text = _("Nothing was planned yet.")
        elif accepted == wanted:
            self.ui.statusLabel.text = _("✔ Every planned side has an accepted trajectory.")
        else:
            missing = [_("left") if side == "left" else _("right") for side in sorted(wanted - accepted)]
            self.ui.statusLabel.text = _("✘ No accepted trajectory: {sides}. Select one to see why.").format(
                sides=", ".join(missing)
            )
        self.ui.exportButton.enabled = bool(rows)
        if rows:
            table.selectRow(0)
        self.onTrajectorySelected()

    def onMoveCheckBox(self, checked):
        """Unlock the line once its clearance can follow it: the distances behind that take some seconds."""
        if checked and not self.prepareClearance():
            self.ui.moveCheckBox.checked = False
        self.onTrajectorySelected()

    def prepareClearance(self):
        """Whether the distances of this patient are known, computing them at the first time."""
        from sacroplasty.errors import SacroplastyError

        parameters = self._parameterNode
        if not (parameters.ct and parameters.segmentation):
            return False
        if not self.hasClearance():
            belongsTo = self.logic.clearanceKey(parameters.segmentation, parameters.ct)
            try:
                self._clearance = self.withProgress(
                    _("Computing distances…"),
                    lambda progress: self.logic.lineClearance(parameters.segmentation, parameters.ct, progress),
                )
                self._clearanceOf = belongsTo
            except SacroplastyError as error:
                self._clearance = None
                self.ui.reasonsLabel.text = f"✘ {error}"
        return self._clearance is not None

    def hasClearance(self):
        """Whether distances were computed and still belong to this CT and segmentation."""
        parameters = self._parameterNode
        if self._clearance is None or not (parameters.ct and parameters.segmentation):
            return False
        return self._clearanceOf == self.logic.clearanceKey(parameters.segmentation, parameters.ct)

    def onTrajectorySelected(self):
        """Show the selected trajectory, unlock it if asked for, and follow it."""
        rows = self.logic.trajectories()
        index = self.ui.trajectoriesTable.currentRow()
        selected = bool(self._parameterNode) and 0 <= index < len(rows)
        self.ui.moveCheckBox.enabled = selected
        if not selected:
            self.observeLine(None)
            self.ui.reasonsLabel.text = ""
            self.showClearance(None)
            return
        self.ui.reasonsLabel.text = "\n".join(f"✘ {reason}" for reason in rows[index].reasons)
        self.observeLine(self.logic.selectLine(index, self.ui.moveCheckBox.checked))
        self.onLineMoved()

    def onLineMoved(self, caller=None, event=None):
        """Clearance of the line where it is now: as planned, or measured once it was moved; unknown is a dash."""
        index = self.ui.trajectoriesTable.currentRow()
        rows = self.logic.trajectories()
        if not (self._line and 0 <= index < len(rows)):
            self.showClearance(None)
        elif not self.logic.isMoved(index):
            self.showClearance(rows[index].clearance_mm)
        elif not self.hasClearance():
            self.showClearance(None)
            self.ui.reasonsLabel.text = _("✘ This line was moved. Tick the box below to measure its clearance.")
        else:
            self.showClearance(self.logic.clearance(self._clearance, self._line, self._parameterNode.gauge))

    def showClearance(self, clearance):
        """The nearest structure in large letters with a symbol, all of them in the table; a dash when unknown."""
        table = self.ui.clearanceTable
        table.setRowCount(len(clearance or {}))
        for number, (name, distance) in enumerate((clearance or {}).items()):
            table.setItem(number, 0, qt.QTableWidgetItem(self.logic.readable(name)))
            table.setItem(number, 1, qt.QTableWidgetItem(f"{distance:.1f}"))
        if not clearance:
            self.ui.clearanceLabel.text = "–"
            self.ui.clearanceLabel.styleSheet = "font-size: 20pt; font-weight: bold;"
            return
        name, distance = next(iter(clearance.items()))
        safe = distance >= self._parameterNode.marginMm
        self.ui.clearanceLabel.text = ("✔ " if safe else "✘ ") + _("{distance} mm to {structure}").format(
            distance=f"{distance:.1f}", structure=self.logic.readable(name)
        )
        color = "#1b7f3b" if safe else "#b00020"
        self.ui.clearanceLabel.styleSheet = f"font-size: 20pt; font-weight: bold; color: {color};"

    def onExportButton(self):
        with slicer.util.tryWithErrorDisplay(_("The plan was not exported."), waitCursor=True):
            path = self.ui.exportPathLineEdit.currentPath
            if not path:
                self.ui.statusLabel.text = _("Choose a file for the plan first.")
                return
            self.logic.export(path)
            self.ui.exportPathLineEdit.addCurrentPathToHistory()
            self.ui.statusLabel.text = _("✔ Written to {path}").format(path=path)


#
# SacroplastyPlanningLogic
#


class SacroplastyPlanningLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene.planning; usable without the widget."""

    def getParameterNode(self):
        return SacroplastyPlanningParameterNode(super().getParameterNode())

    def plan(self, ct, segmentation, sides, technique, gauge, marginMm, progress=None):
        """Search trajectories and show them as locked lines.

        :param sides: some of "left", "right".
        :param technique: "short-axis", "long-axis" or "double-needle".
        :param gauge: 11 or 13.
        :param progress: called with 0 to 1.
        """
        from sacroplasty.scene import planning

        return planning.plan(slicer.mrmlScene, ct, segmentation, sides, technique, gauge, marginMm, progress)

    def trajectories(self):
        from sacroplasty.scene import planning

        return planning.trajectory_rows(slicer.mrmlScene)

    def selectLine(self, index, movable):
        from sacroplasty.scene import planning

        return planning.select_line(slicer.mrmlScene, index, movable)

    def isMoved(self, index):
        from sacroplasty.scene import planning

        return planning.is_moved(slicer.mrmlScene, index)

    def segmentedCT(self):
        """CT and segmentation that the case goes on with; None for what is not there."""
        from sacroplasty.scene import anatomy

        return anatomy.segmented_ct(slicer.mrmlScene)

    def clearanceKey(self, segmentation, ct):
        from sacroplasty.scene import planning

        return planning.clearance_key(segmentation, ct)

    def lineClearance(self, segmentation, ct, progress=None):
        from sacroplasty.scene import planning

        return planning.LineClearance(slicer.mrmlScene, segmentation, ct, progress)

    def clearance(self, lineClearance, line, gauge):
        from sacroplasty.planning.needles import needle

        return lineClearance.of(line, needle(gauge).outer_diameter_mm)

    def export(self, path):
        from sacroplasty.scene import planning

        planning.export_plan(slicer.mrmlScene, path)

    def readable(self, name):
        from sacroplasty.scene import anatomy

        return anatomy.readable(name)


#
# SacroplastyPlanningTest
#


class SacroplastyPlanningTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_ClearanceOfALine()

    def test_ClearanceOfALine(self):
        """A line beside a canal of known place has the clearance that a ruler gives."""
        import numpy as np

        from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
        from sacroplasty.anatomy.model import Anatomy, Foramen, Opening
        from sacroplasty.image import Volume
        from sacroplasty.scene import anatomy, nodes

        self.delayDisplay(_("Building a block with a canal"))
        hounsfield = np.full((50, 50, 50), 100, np.int16)
        volume = Volume(hounsfield, np.diag([1.0, 1.0, 1.0, 1.0]))
        bones, regions = np.zeros((2, 50, 50, 50), np.uint8)
        bones[5:45, 5:45, 5:45] = BONE_LABEL["sacrum"]
        regions[5:45, 5:45, 10:21] = REGION_LABEL["sacral_canal"]
        ct = nodes.add_volume(slicer.mrmlScene, volume, "CT")
        block = Anatomy(
            bones=volume.like(bones),
            regions=volume.like(regions),
            foramina={
                name: Foramen(
                    Opening(np.array([x, 45.0, 30.0]), np.array([0.0, 1.0, 0.0]), 8.0, 8.0),
                    Opening(np.array([x, 5.0, 30.0]), np.array([0.0, -1.0, 0.0]), 8.0, 8.0),
                    np.array([x, 5.0, 30.0]),
                )
                for name, x in (("foramen_s1_left", 8.0), ("foramen_s1_right", 42.0))
            },
            landmarks={},
            SacrumToRAS=np.diag([-1.0, -1.0, 1.0, 1.0]),
            confidence={"sacral_canal": 1.0},
            warnings=(),
            method="test",
            image_hash=nodes.volume_of(ct).content_hash(),
        )
        segmentation = anatomy.show_anatomy(slicer.mrmlScene, block, ct)
        logic = SacroplastyPlanningLogic()
        line = nodes.add_line(slicer.mrmlScene, [30.0, 25.0, 10.0], [30.0, 25.0, 40.0], "Line")
        clearance = logic.clearance(logic.lineClearance(segmentation, ct), line, 11)
        # The canal ends half a voxel beyond its last centre at 20 mm; 11 G has a radius of 1.524 mm.
        self.assertAlmostEqual(clearance["sacral_canal"], 30.0 - 20.5 - 1.524, delta=0.6)
        self.assertEqual(clearance["foramen_s1_left"], float("-inf"))
        self.delayDisplay(_("Test passed"))
