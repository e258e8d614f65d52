import importlib.util
import os
import sys
import time

import qt
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer
from slicer import (
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
)

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastyNavigation
#


class SacroplastyNavigation(ScriptedLoadableModule):
    """Tool tips, the patient registration, and live guidance of the trocar."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Navigation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Calibrates tool tips by pivoting, registers the patient by touched landmarks and guides the trocar "
            "along the plan. Whatever is stale or not known is blanked. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


class Canceled(Exception):
    """The person pressed Cancel in the progress dialog."""


#
# SacroplastyNavigationParameterNode
#


@parameterNodeWrapper
class SacroplastyNavigationParameterNode:
    """
    ct, segmentation - The patient, for the clearance of the shaft.
    toolToReference - The tracked tool to calibrate and to touch landmarks with.
    landmarks - Named points on the CT.
    tipToRAS - The trocar tip to guide.
    trajectory - The planned line to follow.
    """

    ct: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    toolToReference: vtkMRMLLinearTransformNode
    landmarks: vtkMRMLMarkupsFiducialNode
    tipToRAS: vtkMRMLLinearTransformNode
    trajectory: vtkMRMLMarkupsLineNode


#
# SacroplastyNavigationWidget
#


class SacroplastyNavigationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._timer = None
        self._rows = []
        self._placedText = ""

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyNavigation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyNavigationLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        header = self.ui.landmarksTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self.ui.pivotButton.connect("toggled(bool)", self.onPivotButton)
        self.ui.touchButton.connect("clicked(bool)", self.onTouchButton)
        self.ui.clearTouchButton.connect("clicked(bool)", self.onClearTouchButton)
        self.ui.registerButton.connect("clicked(bool)", self.onRegisterButton)
        self.ui.guideButton.connect("clicked(bool)", self.onGuideButton)
        self.ui.placedButton.connect("clicked(bool)", self.onPlacedButton)
        self.ui.landmarksTable.connect("itemSelectionChanged()", self.onLandmarkSelected)

        self._timer = qt.QTimer()
        self._timer.setInterval(50)
        self._timer.connect("timeout()", self.onTimer)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self._timer.stop()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self._timer.start()

    def exit(self):
        """Called each time the user opens a different module."""
        self._timer.stop()
        self.ui.pivotButton.checked = False
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists and is observed."""
        self.setParameterNode(self.logic.getParameterNode())
        ct, segmentation = self.logic.segmentedCT()
        if not self._parameterNode.segmentation:
            self._parameterNode.segmentation = segmentation
        if not self._parameterNode.ct:
            self._parameterNode.ct = ct
        if not self._parameterNode.landmarks:
            self._parameterNode.landmarks = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")

    def setParameterNode(self, inputParameterNode):
        """Set and observe the parameter node; None to let go of it."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.logic.stopGuiding()
        self.logic.watch(None)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        self.ui.pivotButton.enabled = parameters.toolToReference is not None
        self.ui.guideButton.enabled = parameters.tipToRAS is not None and parameters.trajectory is not None
        self.logic.stopGuiding()
        self.logic.watch(parameters.toolToReference)
        self._placedText = ""
        self.showTool()
        self.showLandmarks()
        self.showGuidance()

    def onGuideButton(self):
        """Begin guidance; at the first time for a patient, computing distances takes some seconds."""
        from sacroplasty.errors import SacroplastyError

        parameters = self._parameterNode
        self.ui.guideButton.enabled = False
        dialog = slicer.util.createProgressDialog(
            labelText=_("Computing distances…"),
            windowTitle=_("Sacroplasty Navigation"),
            windowModality=qt.Qt.WindowModal,
        )
        try:
            self.logic.guideAlong(
                parameters.tipToRAS,
                parameters.trajectory,
                parameters.ct,
                parameters.segmentation,
                lambda fraction: self.showProgress(dialog, fraction),
            )
            # Room for digits that can be read from afar.
            self.ui.pivotCollapsibleButton.collapsed = True
            self.ui.registrationCollapsibleButton.collapsed = True
            self._placedText = ""
        except Canceled:
            self.logic.stopGuiding()
        except SacroplastyError as error:
            self._placedText = f"✘ {error}"
        finally:
            dialog.close()
            self.ui.guideButton.enabled = True
        self.showGuidance()

    def showProgress(self, dialog, fraction):
        """Tell how far it is, let Slicer breathe, and end it if the person wants that."""
        dialog.value = round(100 * fraction)
        slicer.app.processEvents()
        if dialog.wasCanceled:
            raise Canceled

    def onPlacedButton(self):
        """Record where the trocar is left; a refusal is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        try:
            placed = self.logic.placeTrocar()
            self._placedText = _("✔ Recorded, {distance} mm off the target.").format(
                distance=f"{placed.target_error_mm:.1f}"
            )
        except SacroplastyError as error:
            self._placedText = f"✘ {error}"
        self.showGuidance()

    def onTimer(self):
        """Collect while pivoting, and bring guidance up to date; blank when it cannot be."""
        if self.logic.isCollecting():
            self.ui.pivotProgressBar.value = round(100 * self.logic.collect())
        self.showGuidance()

    def onPivotButton(self, checked):
        """Start collecting, or end it and calibrate; a refusal says what to do better."""
        from sacroplasty.errors import SacroplastyError

        self.ui.pivotButton.text = _("Finish") if checked else _("Collect")
        if checked:
            self.logic.startCollecting(self._parameterNode.toolToReference)
            self.ui.pivotProgressBar.value = 0
            self.ui.pivotStatusLabel.text = _("Keep the tip in the divot and tilt the tool to all sides.")
            return
        if not (self._parameterNode and self.logic.isCollecting()):
            return
        try:
            self.logic.finishCollecting(self._parameterNode.toolToReference)
            self.showTool()
        except SacroplastyError as error:
            self.ui.pivotStatusLabel.text = f"✘ {error}"
        self.showLandmarks()

    def showTool(self):
        tool = self._parameterNode.toolToReference
        error = self.logic.tipError(tool) if tool else None
        if error is None:
            self.ui.pivotStatusLabel.text = _("✘ Not calibrated.")
        else:
            self.ui.pivotStatusLabel.text = _("✔ Calibrated, error {error} mm on poses left out.").format(
                error=f"{error:.2f}"
            )

    def showLandmarks(self):
        """The pairs with their residuals, and what the registration is worth."""
        landmarks = self._parameterNode.landmarks
        self._rows = self.logic.landmarkRows(landmarks) if landmarks else []
        table = self.ui.landmarksTable
        table.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            texts = (
                self.logic.readable(row.name),
                _("✔ yes") if row.is_touched else _("– no"),
                "–" if row.residual_mm is None else f"{row.residual_mm:.1f}",
                "–" if row.left_out_mm is None else f"{row.left_out_mm:.1f}",
            )
            for column, text in enumerate(texts):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        error = self.logic.registrationError()
        symbol = "✘" if error is None else "✔"
        self.ui.registrationStatusLabel.text = f"{symbol} {self.logic.registrationText()}"
        self.onLandmarkSelected()

    def onLandmarkSelected(self):
        selected = 0 <= self.ui.landmarksTable.currentRow() < len(self._rows)
        tool = self._parameterNode.toolToReference if self._parameterNode else None
        calibrated = tool is not None and self.logic.tipError(tool) is not None
        self.ui.touchButton.enabled = selected and calibrated
        self.ui.clearTouchButton.enabled = selected and self._rows[self.ui.landmarksTable.currentRow()].is_touched
        self.ui.registerButton.enabled = sum(row.is_touched for row in self._rows) >= 3

    def onTouchButton(self):
        self.attempt(self.logic.touch)

    def onClearTouchButton(self):
        self.attempt(self.logic.forget)

    def attempt(self, action):
        """Do something with the selected landmark; a refusal is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        row = self.ui.landmarksTable.currentRow()
        try:
            action(self._rows[row].name)
            self.showLandmarks()
        except SacroplastyError as error:
            self.ui.registrationStatusLabel.text = f"✘ {error}"

    def onRegisterButton(self):
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.register(self._parameterNode.landmarks)
            self.showLandmarks()
        except SacroplastyError as error:
            self.showLandmarks()
            self.ui.registrationStatusLabel.text = f"✘ {error}"

    def showGuidance(self):
        """The readout in large digits; dashes as soon as one thing is stale or unknown."""
        from sacroplasty.errors import SacroplastyError

        try:
            reading = self.logic.guidance()
            reason = reading.reason if reading else _("Select trocar tip and trajectory, then press Guide.")
        except SacroplastyError as error:
            reading, reason = None, str(error)
        if reading is None or not reading.valid:
            for label in (self.ui.offsetLabel, self.ui.angleLabel, self.ui.depthLabel, self.ui.nearestLabel):
                label.text = "–"
            self.ui.phaseLabel.text = _("✘ NO GUIDANCE")
            self.ui.phaseLabel.styleSheet = "font-size: 22pt; font-weight: bold; color: #d32f2f;"
            self.ui.guidanceStatusLabel.text = "\n".join(filter(None, (reason, self._placedText)))
            self.ui.placedButton.enabled = False
            return
        self.ui.offsetLabel.text = f"{reading.offset_from_line_mm:.1f}"
        self.ui.angleLabel.text = f"{reading.angle_deg:.1f}"
        self.ui.depthLabel.text = f"{reading.depth_to_target_mm:.0f}"
        phases = {
            "skin": _("OUTSIDE THE BONE"),
            "cortex": _("AT THE CORTEX"),
            "in-bone": _("IN THE BONE"),
            "at-target": _("✔ AT THE TARGET"),
            "past-target": _("✘ BEYOND THE TARGET"),
        }
        self.ui.phaseLabel.text = phases.get(reading.phase, reading.phase)
        self.ui.phaseLabel.styleSheet = "font-size: 22pt; font-weight: bold;"
        self.ui.nearestLabel.text = self.logic.nearestText(reading)
        self.ui.guidanceStatusLabel.text = "\n".join(filter(None, (self.logic.registrationText(), self._placedText)))
        self.ui.placedButton.enabled = reading.phase == "at-target"


#
# SacroplastyNavigationLogic
#


class SacroplastyNavigationLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene.navigation; usable without the widget.

    Poses are read from transform nodes, so they may as well come through SlicerOpenIGTLink and Plus.
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._collector = None
        self._guide = None
        self._watch = None
        self._clearance = None
        self._clearanceOf = None

    def getParameterNode(self):
        return SacroplastyNavigationParameterNode(super().getParameterNode())

    def startCollecting(self, tool):
        from sacroplasty.scene import navigation

        self._collector = navigation.PivotCollector(tool)

    def isCollecting(self):
        return self._collector is not None

    def collect(self):
        """Take one pose; 0 to 1 of what is needed."""
        self._collector.collect()
        return self._collector.progress

    def finishCollecting(self, tool):
        """Calibrate with what was collected. Raises a CalibrationError that says what to do better."""
        from sacroplasty.scene import navigation

        collector, self._collector = self._collector, None
        return navigation.calibrate(slicer.mrmlScene, tool, collector)

    def tipError(self, tool):
        from sacroplasty.scene import navigation

        return navigation.tip_error_mm(slicer.mrmlScene, tool)

    def landmarkRows(self, landmarks):
        from sacroplasty.scene import navigation

        return navigation.landmark_rows(slicer.mrmlScene, landmarks)

    def segmentedCT(self):
        """CT and segmentation that the case goes on with; None for what is not there."""
        from sacroplasty.scene import anatomy

        return anatomy.segmented_ct(slicer.mrmlScene)

    def readable(self, name):
        from sacroplasty.scene import anatomy

        return anatomy.readable(name)

    def watch(self, tool):
        """Follow the age of a tool's poses, so that no old one touches a landmark; None to stop."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if tool:
            from sacroplasty.scene import navigation

            self._watch = navigation.PoseWatch(tool, time.monotonic)

    def touch(self, name):
        """Record the tip of the watched tool as this landmark."""
        from sacroplasty.scene import navigation

        return navigation.touch(slicer.mrmlScene, name, self._watch)

    def forget(self, name):
        from sacroplasty.scene import navigation

        navigation.forget(slicer.mrmlScene, name)

    def register(self, landmarks):
        from sacroplasty.scene import navigation

        return navigation.register(slicer.mrmlScene, landmarks)

    def registrationError(self):
        from sacroplasty.scene import navigation

        return navigation.registration_error_mm(slicer.mrmlScene)

    def registrationText(self):
        from sacroplasty.scene import navigation

        return navigation.registration_text(slicer.mrmlScene)

    def guideAlong(self, tip, line, ct=None, segmentation=None, progress=None):
        """Follow a tip along a planned line; with CT and segmentation, the clearance of the shaft is known too."""
        from sacroplasty.navigation.clearance import ShaftClearance
        from sacroplasty.scene import anatomy, navigation, planning

        self.stopGuiding()
        clearance = None
        if ct and segmentation:
            key = planning.clearance_key(segmentation, ct)
            if self._clearanceOf != key:
                known = anatomy.anatomy_of(slicer.mrmlScene, segmentation, ct)
                self._clearance = ShaftClearance.of_anatomy(known, progress or (lambda fraction: None))
                self._clearanceOf = key
            clearance = self._clearance
        self._guide = navigation.Guide(slicer.mrmlScene, tip, line, time.monotonic, clearance)

    def placeTrocar(self):
        """Record that the trocar is left where it is. Raises a CalibrationError when it is not in place."""
        return self._guide.place()

    def stopGuiding(self):
        if self._guide is not None:
            self._guide.close()
        self._guide = None

    def guidance(self):
        """A GuidanceReading, or None when there is nothing to follow."""
        return self._guide.reading() if self._guide is not None else None

    def nearestText(self, reading):
        """The protected structure nearest to the shaft, with what the expected error leaves of the distance."""
        from sacroplasty.scene import anatomy

        if reading.clearance_mm == float("-inf"):
            return _("✘ Clearance unknown: select the segmentation")
        symbol = "✔" if reading.assured_clearance_mm > 0 else "✘"
        return _("{symbol} {structure} {distance} ± {error} mm").format(
            symbol=symbol,
            structure=anatomy.readable(reading.nearest_structure),
            distance=f"{reading.clearance_mm:.1f}",
            error=f"{reading.predicted_error_mm:.1f}",
        )


#
# SacroplastyNavigationTest
#


class SacroplastyNavigationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_PivotFindsTheTip()

    def test_PivotFindsTheTip(self):
        """A tool turned about a fixed point has its tip there; one that stands still is refused."""
        import numpy as np

        from sacroplasty.errors import CalibrationError
        from sacroplasty.geometry import rigid, rotation_about
        from sacroplasty.scene import nodes

        tip = np.array([1.0, -2.0, 150.0])
        pivot = np.array([10.0, 20.0, 30.0])
        generator = np.random.default_rng(1)
        tool = nodes.add_transform(slicer.mrmlScene, np.eye(4), "StylusToReference")
        logic = SacroplastyNavigationLogic()
        logic.startCollecting(tool)
        for index in range(200):
            axis = [np.cos(0.1 * index), np.sin(0.1 * index), 0.0]
            rotation = rotation_about(axis, 35.0) @ rotation_about([0, 0, 1], 2.0 * index)
            noise = generator.normal(0, 0.05, 3)
            nodes.set_transform(tool, rigid(rotation, pivot - rotation @ tip + noise))
            logic.collect()
        calibration = logic.finishCollecting(tool)
        self.assertLess(float(np.linalg.norm(calibration.tip_in_tool_mm - tip)), 0.1)
        logic.startCollecting(tool)
        logic.collect()
        with self.assertRaises(CalibrationError):
            logic.finishCollecting(tool)
        self.delayDisplay(_("Test passed"))
