import importlib.util
import os
import sys
import time
from typing import Annotated

import qt
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
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

#: How often the readout is asked for, so that an old pose is gone in time; pictures that move are drawn less often.
TICK_MS = 20
#: How long a reading may stand on the screen: until the next tick, and half a tick more where that comes late.
SHOWN_S = 0.03
PICTURE_S = 0.04
PAUSE_S = 120.0

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
            "Calibrates tools by pivoting and spinning, registers the patient by touched landmarks and swept bone, and "
            "guides the trocar along the plan with the error of its place. Whatever is stale or not known is blanked. "
            "Research software, not a medical device."
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
    ct, segmentation - The patient, for the clearance of the shaft and for swept bone.
    toolToReference - The tracked tool to calibrate and to touch landmarks with.
    landmarks - Named points on the CT.
    tipToRAS - The trocar tip to guide.
    trajectory - The planned line to follow.
    smoothingMs - The delay that a steadier display may cost.
    followSlices - Whether slice views follow the trocar.
    sound - Whether warnings are heard.
    volume...Mm - Where the tracker measures: its depth, and half its width there; 0 when it is not known.
    """

    ct: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    toolToReference: vtkMRMLLinearTransformNode
    landmarks: vtkMRMLMarkupsFiducialNode
    tipToRAS: vtkMRMLLinearTransformNode
    trajectory: vtkMRMLMarkupsLineNode
    smoothingMs: Annotated[float, WithinRange(0, 40)] = 0.0
    followSlices: bool = True
    sound: bool = True
    volumeNearMm: Annotated[float, WithinRange(0, 10000)] = 0.0
    volumeFarMm: Annotated[float, WithinRange(0, 10000)] = 0.0
    volumeNearHalfWidthMm: Annotated[float, WithinRange(0, 10000)] = 0.0
    volumeFarHalfWidthMm: Annotated[float, WithinRange(0, 10000)] = 0.0


#
# Drawing
#


def paintShapes(label, shapes, width, height, picture=None):
    """Paint shapes of sacroplasty.navigation.sketch into a label, over a picture if there is one."""
    from sacroplasty.navigation import sketch

    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(*sketch.DARK))
    painter = qt.QPainter()
    painter.begin(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    if picture is not None:
        painter.drawPixmap(0, 0, picture)
    for shape in shapes:
        color = qt.QColor(*shape.color)
        pen = qt.QPen()
        pen.setColor(color)
        painter.setBrush(qt.QBrush())
        if isinstance(shape, sketch.Line):
            pen.setWidth(max(1, round(shape.width)))
            painter.setPen(pen)
            painter.drawLine(*(round(float(value)) for value in (*shape.start, *shape.end)))
        elif isinstance(shape, sketch.Ellipse):
            pen.setWidth(max(1, round(shape.width)))
            painter.setPen(pen)
            if shape.filled:
                painter.setBrush(qt.QBrush(color))
            (x, y), (a, b) = shape.center, shape.radii
            painter.drawEllipse(round(float(x - a)), round(float(y - b)), max(2, round(2 * a)), max(2, round(2 * b)))
        else:
            painter.setPen(pen)
            font = painter.font()
            font.setPixelSize(max(8, round(shape.height)))
            painter.setFont(font)
            side = round(6 * shape.height)
            left, top = round(float(shape.center[0]) - side / 2), round(float(shape.center[1]) - side / 2)
            painter.drawText(left, top, side, side, qt.Qt.AlignCenter, shape.text)
    painter.end()
    label.setPixmap(pixmap)


class GuidanceReadout:
    """Figures, bull's-eye, depth gauge, X-rays and warnings: in the panel, and larger on a screen of its own."""

    def __init__(self, logic, path, scale=1.0):
        """
        scale - Of digits and pictures, against those of the module panel.
        """
        self.logic = logic
        self.widget = slicer.util.loadUI(path)
        self.parts = slicer.util.childWidgetVariables(self.widget)
        self._scale = scale
        self._bullsEye, self._gauge, self._xray = (round(scale * size) for size in (300, 96, 150))
        self._pictures = ()
        self._xrays = ()
        self._drawn = None
        self._styles = {}
        for name, points in (
            ("notLive", 16), ("reason", 16), ("nearest", 18), ("detail", 13), ("status", 11),
        ):  # fmt: skip
            label = getattr(self.parts, f"{name}Label")
            label.styleSheet = label.styleSheet.replace(f"{points}pt", f"{round(points * scale)}pt")
        for name in ("offset", "angle", "depth", "bone"):
            getattr(self.parts, f"{name}Label").styleSheet = f"font-size: {round(48 * scale)}pt; font-weight: bold;"
            getattr(self.parts, f"{name}CaptionLabel").styleSheet = f"font-size: {round(12 * scale)}pt;"
        self.parts.notLiveLabel.visible = False
        if scale > 1:
            # A screen is wide: the pictures stand beside the figures.
            self.widget.layout().setDirection(qt.QVBoxLayout.LeftToRight)

    def setXrays(self, xrays):
        """The X-rays that the trocar is drawn over."""
        self._xrays = xrays
        pictures = []
        for xray in xrays:
            picture = qt.QPixmap()
            picture.loadFromData(xray.png)
            size = (self._xray, self._xray)
            pictures.append(picture.scaled(*size, qt.Qt.IgnoreAspectRatio, qt.Qt.SmoothTransformation))
        self._pictures = tuple(pictures)
        self._drawn = None

    def show(self, reading, reason, status=""):
        """Show a GuidanceReading, or None; dashes and the reason as soon as one thing is stale or unknown."""
        valid = reading is not None and reading.valid
        beyond = valid and reading.depth_to_target_mm < 0
        past = valid and reading.depth_to_bone_mm < 0
        notLive = self.logic.notLive()
        symbol, phase, color = self._phase(reading if valid else None)
        self.parts.notLiveLabel.visible = bool(notLive)
        texts = {
            "notLive": _("NOT LIVE: {source}").format(source=notLive),
            "phase": f"{symbol}{phase}",
            "reason": "" if valid else reason,
            "offset": f"{reading.offset_from_line_mm:.1f}" if valid else "–",
            "angle": f"{reading.angle_deg:.1f}" if valid else "–",
            "depth": f"{abs(reading.depth_to_target_mm):.0f}" if valid else "–",
            "depthCaption": _("Beyond target (mm)") if beyond else _("To target (mm)"),
            "bone": f"{abs(reading.depth_to_bone_mm):.0f}" if valid else "–",
            "boneCaption": _("Past cortex (mm)") if past else _("To cortex (mm)"),
            "nearest": self.logic.nearestText(reading) if valid else "–",
            "detail": self.logic.detailText(reading) if valid else "",
            "warnings": self.logic.warningsText(),
            # In the panel this stands at its top already.
            "status": f"{_('Research software, not a medical device.')}\n{status}" if self._scale > 1 else status,
        }
        for name, text in texts.items():
            getattr(self.parts, f"{name}Label").text = text
        self._style("phase", 22, color)
        self._style("warnings", 18, self.logic.warningsColor())
        self._draw(reading if valid else None)

    def _style(self, name, points, color):
        """Set a label's style when it has changed: Qt works it out anew each time."""
        style = f"font-size: {round(points * self._scale)}pt; font-weight: bold; {color}"
        if self._styles.get(name) != style:
            self._styles[name] = style
            getattr(self.parts, f"{name}Label").styleSheet = style

    def _phase(self, reading):
        if reading is None:
            return "✘ ", _("NO GUIDANCE"), "color: #d32f2f;"
        return {
            "skin": ("", _("OUTSIDE THE BONE"), ""),
            "cortex": ("", _("AT THE CORTEX"), ""),
            "in-bone": ("", _("IN THE BONE"), ""),
            "at-target": ("✔ ", _("AT THE TARGET"), "color: #2e7d32;"),
            "past-target": ("✘ ", _("BEYOND THE TARGET"), "color: #d32f2f;"),
        }[reading.phase]

    def _draw(self, reading):
        """Pictures, unless the same ones stand there; what is lost is gone at once, what moves every 40 ms."""
        if self._drawn is not None and self._drawn[0] is reading:
            return
        if self._drawn is not None and reading is not None and time.monotonic() - self._drawn[1] < PICTURE_S:
            return
        self._drawn = (reading, time.monotonic())
        size, gauge = self._bullsEye, self._gauge
        shapes = self.logic.bullsEye(reading, size)
        if shapes is None:
            for label in (self.parts.bullsEyeLabel, self.parts.gaugeLabel, *self._xrayLabels()):
                label.clear()
            return
        paintShapes(self.parts.bullsEyeLabel, shapes, size, size)
        paintShapes(self.parts.gaugeLabel, self.logic.depthGauge(reading, gauge, size), gauge, size)
        for label, xray, picture in zip(self._xrayLabels(), self._xrays, self._pictures, strict=False):
            shapes = self.logic.trocarOverXray(reading, xray, self._xray)
            paintShapes(label, shapes, self._xray, self._xray, picture)

    def _xrayLabels(self):
        return (self.parts.xray0Label, self.parts.xray1Label, self.parts.xray2Label)


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
        self._message = ""
        self._readouts = []
        self._screen = None
        self._pulses = []
        self._collecting = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyNavigation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyNavigationLogic()
        self._readouts = [GuidanceReadout(self.logic, self.resourcePath("UI/GuidanceReadout.ui"))]
        self.ui.readoutFrame.layout().addWidget(self._readouts[0].widget)
        self.ui.settingsGroupBox.collapsed = True

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        header = self.ui.landmarksTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        self.ui.pivotButton.connect("toggled(bool)", self.onPivotButton)
        self.ui.saveCalibrationButton.connect("clicked(bool)", self.onSaveCalibrationButton)
        self.ui.loadCalibrationButton.connect("clicked(bool)", self.onLoadCalibrationButton)
        self.ui.spinButton.connect("toggled(bool)", self.onSpinButton)
        self.ui.divotButton.connect("toggled(bool)", self.onDivotButton)
        self.ui.touchButton.connect("clicked(bool)", self.onTouchButton)
        self.ui.clearTouchButton.connect("clicked(bool)", self.onClearTouchButton)
        self.ui.checkPointButton.connect("clicked(bool)", self.onCheckPointButton)
        self.ui.sweepButton.connect("toggled(bool)", self.onSweepButton)
        self.ui.clearSweepButton.connect("clicked(bool)", self.onClearSweepButton)
        self.ui.registerButton.connect("clicked(bool)", self.onRegisterButton)
        self.ui.guideButton.connect("clicked(bool)", self.onGuideButton)
        self.ui.screenButton.connect("toggled(bool)", self.onScreenButton)
        self.ui.pauseButton.connect("clicked(bool)", self.onPauseButton)
        self.ui.testSoundButton.connect("clicked(bool)", self.onTestSoundButton)
        self.ui.placedButton.connect("clicked(bool)", self.onPlacedButton)
        self.ui.landmarksTable.connect("itemSelectionChanged()", self.onLandmarkSelected)

        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self.onTimer)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self._timer.stop()
        self.ui.screenButton.checked = False
        self.setParameterNode(None)
        self.removeObservers()
        self._readouts = []

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self._timer.start()

    def exit(self):
        """Called each time the user opens a different module. Guidance ends with it, on the large screen too."""
        self._timer.stop()
        self.stopCollecting()
        self.setParameterNode(None)
        for readout in self._readouts:
            readout.show(None, _("The module was left."))

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
        self.stopCollecting()
        self.logic.stopGuiding()
        self.logic.watch(None)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        for button in (self.ui.pivotButton, self.ui.spinButton, self.ui.divotButton, self.ui.loadCalibrationButton):
            button.enabled = parameters.toolToReference is not None
        self.ui.guideButton.enabled = parameters.tipToRAS is not None and parameters.trajectory is not None
        self.stopCollecting()
        # Guidance rests on what was chosen when it began.
        self.logic.stopGuiding()
        self.logic.watch(parameters.toolToReference)
        self._message = ""
        self.showTool()
        self.showLandmarks()
        self.showGuidance()
        self.showPlaced()

    def onTimer(self):
        """Collect, and bring guidance up to date; blank when it cannot be."""
        if self._collecting is not None:
            self.logic.collect()
            self.showProgressOfTool()
        if self.logic.isSweeping():
            self.ui.sweepLabel.text = _("{count} points").format(count=self.logic.sweep())
        if self.logic.referenceJumped():
            self.showLandmarks()
        self.showGuidance()
        self.playSound()

    # 1. Tools

    def onPivotButton(self, checked):
        self.collectOr(checked, self.ui.pivotButton, _("Keep the tip in the divot and tilt the tool to all sides."),
                       self.logic.finishPivot)  # fmt: skip

    def onSpinButton(self, checked):
        self.collectOr(checked, self.ui.spinButton, _("Turn the tool about its shaft, as in a sleeve."),
                       self.logic.finishSpin)  # fmt: skip

    def onDivotButton(self, checked):
        self.collectOr(checked, self.ui.divotButton, _("Hold the tip in the divot of its calibration."),
                       self.logic.finishDivot)  # fmt: skip

    def collectOr(self, checked, button, advice, finish):
        """Begin to collect poses, or end it and do with them what the button is for; a refusal is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        if checked:
            self.stopCollecting(button)
            self._collecting = button
            self.logic.startCollecting(self._parameterNode.toolToReference)
            self.ui.pivotAdviceLabel.text = advice
            return
        if self._collecting is not button:
            return
        self._collecting = None
        self.ui.pivotAdviceLabel.text = ""
        self.ui.coverageLabel.clear()
        try:
            text = finish()
            self.showTool()
            if text:
                self.ui.pivotStatusLabel.text = text
        except SacroplastyError as error:
            self.ui.pivotStatusLabel.text = f"✘ {error}"
        self.showLandmarks()

    def stopCollecting(self, butFor=None):
        """Forget what was collected: another button was pressed, another tool chosen, or the module left."""
        self._collecting = None
        self.logic.stopCollecting()
        for button in (self.ui.pivotButton, self.ui.spinButton, self.ui.divotButton, self.ui.sweepButton):
            if button is not butFor:
                button.checked = False

    def showProgressOfTool(self):
        """Coverage and what is lacking, four times a second: comparing many poses takes a while."""
        from sacroplasty.errors import SacroplastyError

        try:
            progress = self.logic.progress()
        except SacroplastyError as error:
            self.ui.pivotAdviceLabel.text = f"✘ {error}"
            return
        if progress is None:
            return
        if self._collecting is self.ui.pivotButton:
            paintShapes(self.ui.coverageLabel, self.logic.coverageDial(progress, 90), 90, 90)
            symbol = "✔ " if progress.enough else ""
            self.ui.pivotAdviceLabel.text = symbol + _("{advice} ({range}° turned, {count} poses)").format(
                advice=progress.advice, range=f"{progress.orientation_range_deg:.0f}", count=progress.valid_poses
            )
        else:
            self.ui.pivotAdviceLabel.text = _("{count} poses, {range}° turned").format(
                count=progress.valid_poses, range=f"{progress.orientation_range_deg:.0f}"
            )

    def showTool(self):
        tool = self._parameterNode.toolToReference
        usable = tool is not None and not self.logic.tipProblem(tool)
        text = self.logic.calibrationText(tool) if tool else _("select a tool")
        self.ui.pivotStatusLabel.text = f"{'✔' if usable else '✘'} {text}"
        self.ui.saveCalibrationButton.enabled = tool is not None and self.logic.isCalibrated(tool)

    def onSaveCalibrationButton(self):
        def save(tool, path):
            self.logic.saveCalibration(tool, path)
            return _("✔ Written to {path}").format(path=path)

        self.doWithFile(save)

    def onLoadCalibrationButton(self):
        self.doWithFile(self.logic.loadCalibration)

    def doWithFile(self, action):
        """Do action(tool, path), which may give a text to show; a refusal is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        self.stopCollecting()
        path = self.ui.calibrationPathLineEdit.currentPath
        try:
            text = action(self._parameterNode.toolToReference, path)
            self.ui.calibrationPathLineEdit.addCurrentPathToHistory()
        except (OSError, SacroplastyError) as error:
            text = f"✘ {error}"
        self.showTool()
        self.showLandmarks()
        if text:
            self.ui.pivotStatusLabel.text = text

    # 2. Patient

    def showLandmarks(self):
        """The pairs with their residuals, and what the registration is worth at the targets."""
        landmarks = self._parameterNode.landmarks
        self._rows = self.logic.landmarkRows(landmarks) if landmarks else []
        table = self.ui.landmarksTable
        table.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            name = self.logic.readable(row.name)
            texts = (
                _("{landmark}  ← touch again").format(landmark=name) if row.redo else name,
                _("✔ yes") if row.is_touched else _("– no"),
                "–" if row.residual_mm is None else f"{row.residual_mm:.1f}",
                "–" if row.left_out_mm is None else f"{row.left_out_mm:.1f}",
            )
            for column, text in enumerate(texts):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        problem = self.logic.registrationProblem()
        text = self.logic.registrationText()
        self.ui.registrationStatusLabel.text = f"✘ {problem}" if problem else f"✔ {text}"
        self.ui.errorLabel.text = self.logic.errorText()
        self.ui.sweepLabel.text = _("{count} points").format(count=self.logic.sweptCount())
        self.onLandmarkSelected()

    def onLandmarkSelected(self):
        selected = 0 <= self.ui.landmarksTable.currentRow() < len(self._rows)
        touched = selected and self._rows[self.ui.landmarksTable.currentRow()].is_touched
        tool = self._parameterNode.toolToReference if self._parameterNode else None
        calibrated = tool is not None and not self.logic.tipProblem(tool)
        self.ui.touchButton.enabled = selected and calibrated
        self.ui.clearTouchButton.enabled = touched
        self.ui.checkPointButton.enabled = touched and calibrated and bool(self.logic.registrationText())
        self.ui.sweepButton.enabled = calibrated
        self.ui.clearSweepButton.enabled = self.logic.sweptCount() > 0
        self.ui.registerButton.enabled = sum(row.is_touched for row in self._rows) >= 3

    def onTouchButton(self):
        self.attempt(lambda name: self.logic.touch(name))

    def onClearTouchButton(self):
        self.attempt(lambda name: self.logic.forget(name))

    def onCheckPointButton(self):
        self.attempt(lambda name: self.logic.checkPoint(name))

    def attempt(self, action):
        """Do something with the selected landmark; what comes of it, or a refusal, is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        try:
            text = action(self._rows[self.ui.landmarksTable.currentRow()].name)
            self.showLandmarks()
            if text:
                self.ui.registrationStatusLabel.text = text
        except SacroplastyError as error:
            self.ui.registrationStatusLabel.text = f"✘ {error}"

    def onSweepButton(self, checked):
        """Begin to take the tip as it is drawn over bone, or end it and keep the points."""
        if checked:
            self.stopCollecting(self.ui.sweepButton)
            self.logic.startSweeping()
        elif self.logic.isSweeping():
            self.logic.keepSweep()
            self.showLandmarks()

    def onClearSweepButton(self):
        self.logic.clearSweep()
        self.showLandmarks()

    def onRegisterButton(self):
        from sacroplasty.errors import SacroplastyError

        parameters = self._parameterNode
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            self.logic.register(parameters.landmarks, parameters.ct, parameters.segmentation)
            self.showLandmarks()
        except SacroplastyError as error:
            self.showLandmarks()
            self.ui.registrationStatusLabel.text = f"✘ {error}"
        finally:
            qt.QApplication.restoreOverrideCursor()

    # 3. Guidance

    def onGuideButton(self):
        """Begin guidance; at the first time for a patient, computing distances and X-rays takes some seconds."""
        from sacroplasty.errors import SacroplastyError

        parameters = self._parameterNode
        self.ui.guideButton.enabled = False
        dialog = slicer.util.createProgressDialog(
            labelText=_("Computing distances and X-rays…"),
            windowTitle=_("Sacroplasty Navigation"),
            windowModality=qt.Qt.WindowModal,
        )
        try:
            self.logic.guideAlong(parameters, lambda fraction: self.showProgress(dialog, fraction))
            # Room for digits that can be read from afar.
            self.ui.pivotCollapsibleButton.collapsed = True
            self.ui.registrationCollapsibleButton.collapsed = True
            self._message = ""
        except Canceled:
            self.logic.stopGuiding()
        except SacroplastyError as error:
            self.logic.stopGuiding()
            self._message = str(error)
        finally:
            dialog.close()
            self.ui.guideButton.enabled = True
        for readout in self._readouts:
            readout.setXrays(self.logic.xrays())
        self.showGuidance()

    def showProgress(self, dialog, fraction):
        """Tell how far it is, let Slicer breathe, and end it if the person wants that."""
        dialog.value = round(100 * fraction)
        slicer.app.processEvents()
        if dialog.wasCanceled:
            raise Canceled

    def onScreenButton(self, checked):
        """Open or close the window for a screen that is seen from the table."""
        if checked:
            self._screen = GuidanceReadout(self.logic, self.resourcePath("UI/GuidanceReadout.ui"), scale=2.0)
            self._screen.widget.windowTitle = _("Sacroplasty guidance: research software, not a medical device")
            self._screen.setXrays(self.logic.xrays())
            self._readouts.append(self._screen)
            self._screen.widget.show()
            self.showGuidance()
        elif self._screen is not None:
            self._readouts.remove(self._screen)
            self._screen.widget.close()
            self._screen.widget.deleteLater()
            self._screen = None

    def showGuidance(self):
        """Every readout, and whether the trocar can be recorded."""
        if self._parameterNode is None:
            return
        reading = self.logic.guidance()
        reason = self._message or (
            reading.reason if reading else _("Select trocar tip and trajectory, then press Guide.")
        )
        for readout in self._readouts:
            readout.show(reading, reason, self.logic.statusText())
        self.logic.display(reading, self._parameterNode.followSlices)
        self.ui.placedButton.enabled = bool(reading and reading.valid)

    def playSound(self):
        """System beeps of the bursts that are due; of all that stand, the worst is heard."""
        now = time.monotonic()
        priority = self.logic.sound(now)
        if priority and self._parameterNode is not None and self._parameterNode.sound:
            self._pulses = [now + start for start in self.logic.pulses(priority)]
        if self._pulses and now >= self._pulses[0]:
            self._pulses.pop(0)
            qt.QApplication.beep()
        paused = self.logic.pausedSeconds(now)
        self.ui.pauseButton.text = (
            _("Paused: {seconds} s").format(seconds=round(paused)) if paused else _("Pause 2 min")
        )

    def onPauseButton(self):
        self.logic.pauseSound(time.monotonic(), PAUSE_S)

    def onTestSoundButton(self):
        """Beeps of medium priority, whatever stands."""
        self._pulses = [time.monotonic() + start for start in self.logic.pulses("medium")]

    # 4. As placed

    def onPlacedButton(self):
        """Record where the trocar is left; a refusal is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.placeTrocar(self.ui.offPlanCheckBox.checked)
            self.ui.offPlanCheckBox.checked = False
            self.showPlaced()
        except SacroplastyError as error:
            self.ui.placedLabel.text = f"✘ {error}"

    def showPlaced(self):
        self.ui.placedLabel.text = self.logic.placedText() or _("Nothing was recorded.")


#
# SacroplastyNavigationLogic
#


class SacroplastyNavigationLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene; usable without the widget.

    Poses are read from transform nodes, so they may as well come through SlicerOpenIGTLink and Plus.
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._collector = None
        self._progressAt = 0.0
        self._sweep = None
        self._guide = None
        self._display = None
        self._watch = None
        self._reference = None
        self._clearance = None
        self._xrays = ()
        self._preparedFor = None

    def getParameterNode(self):
        return SacroplastyNavigationParameterNode(super().getParameterNode())

    def today(self):
        from datetime import UTC, datetime

        return datetime.now(UTC)

    # Tools

    def startCollecting(self, tool):
        from sacroplasty.scene import calibration

        self._collector = calibration.PoseCollector(tool)

    def stopCollecting(self):
        self._collector = self._sweep = None

    def collect(self):
        """Take one pose."""
        self._collector.collect()

    def progress(self):
        """A PivotProgress four times a second, in between None."""
        if time.monotonic() - self._progressAt < 0.25:
            return None
        self._progressAt = time.monotonic()
        return self._collector.progress()

    def coverageDial(self, progress, size):
        from sacroplasty.navigation import sketch

        return sketch.coverage_dial(progress.sectors, size)

    def finishPivot(self):
        """Calibrate with what was collected. Raises a CalibrationError that says what to do better."""
        from sacroplasty.scene import calibration

        calibration.calibrate(slicer.mrmlScene, self._takeCollector(), self.today())

    def finishSpin(self):
        from sacroplasty.scene import calibration

        calibration.calibrate_axis(slicer.mrmlScene, self._takeCollector())

    def finishDivot(self):
        """What the check found, in words."""
        from sacroplasty.scene import calibration

        found = calibration.check_in_divot(slicer.mrmlScene, self._takeCollector())
        return f"{'✔' if found.passed else '✘'} {found.text}"

    def isCalibrated(self, tool):
        from sacroplasty.scene import calibration

        return calibration.calibration_of(slicer.mrmlScene, calibration.tool_name(tool)) is not None

    def saveCalibration(self, tool, path):
        from sacroplasty.scene import calibration

        calibration.save_calibration(slicer.mrmlScene, tool, path)

    def loadCalibration(self, tool, path):
        """Read a calibration, to be checked in the divot. Raises an error that says why it must not be used."""
        from sacroplasty.scene import calibration

        calibration.load_calibration(slicer.mrmlScene, tool, path, self.today())

    def _takeCollector(self):
        collector, self._collector = self._collector, None
        return collector

    def tipProblem(self, tool):
        """Why the tip of a tool must not be used, in words; empty when it may."""
        from sacroplasty.errors import CalibrationError
        from sacroplasty.scene import calibration

        try:
            calibration.usable_tip(slicer.mrmlScene, tool, self.today())
        except CalibrationError as error:
            return str(error)
        return ""

    def calibrationText(self, tool):
        from sacroplasty.scene import calibration

        return calibration.calibration_text(slicer.mrmlScene, calibration.tool_name(tool), self.today())

    # Patient

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
            from sacroplasty.scene import calibration

            self._watch = calibration.PoseWatch(tool, time.monotonic)

    def referenceJumped(self):
        """Follow the reference on the patient; whether the registration needs a check point by what it did now."""
        from sacroplasty.scene import reference

        if self._reference is None:
            self._reference = reference.ReferenceFollower(slicer.mrmlScene, time.monotonic)
        return self._reference.follow()

    def touch(self, name):
        """Record the tip of the watched tool as this landmark."""
        from sacroplasty.scene import navigation

        navigation.touch(slicer.mrmlScene, name, self._watch, self.today())

    def forget(self, name):
        from sacroplasty.scene import navigation

        navigation.forget(slicer.mrmlScene, name)

    def checkPoint(self, name):
        """What touching the landmark again found, in words."""
        from sacroplasty.scene import navigation

        found = navigation.check_point(slicer.mrmlScene, name, self._watch, self.today())
        return f"{'✘' if found.moved else '✔'} {found.text}"

    def startSweeping(self):
        from sacroplasty.scene import navigation

        self._sweep = navigation.Sweep(slicer.mrmlScene, self._watch)

    def isSweeping(self):
        return self._sweep is not None

    def sweep(self):
        """Take the tip of now; how many points there are."""
        self._sweep.collect(self.today())
        return len(self._sweep.points)

    def keepSweep(self):
        self._sweep.keep()
        self._sweep = None

    def sweptCount(self):
        from sacroplasty.scene import navigation

        return len(navigation.swept(slicer.mrmlScene))

    def clearSweep(self):
        from sacroplasty.scene import navigation

        navigation.show_swept(slicer.mrmlScene, [])

    def register(self, landmarks, ct=None, segmentation=None):
        from sacroplasty.scene import navigation

        return navigation.register(slicer.mrmlScene, landmarks, ct, segmentation)

    def registrationProblem(self):
        from sacroplasty.scene import navigation

        return navigation.registration_problem(slicer.mrmlScene)

    def registrationText(self):
        from sacroplasty.scene import navigation

        return navigation.registration_text(slicer.mrmlScene)

    def errorText(self):
        """The expected error of the trocar at each target, with its sources, and what the CT itself leaves open."""
        from sacroplasty.procedure.navigate import VOXELS, navigation_error_mm
        from sacroplasty.scene import navigation

        texts = []
        for side, budget in navigation.target_budgets(slicer.mrmlScene).items():
            parts = budget.rms_mm()
            voxels = parts.pop(VOXELS)
            texts.append(
                _("Expected at the {side} target: {error} mm\n({sources}; besides, voxels of the CT {voxels})").format(
                    side=_("left") if side == "left" else _("right"),
                    error=f"{navigation_error_mm(budget):.1f}",
                    sources=", ".join(f"{name} {error:.1f}" for name, error in parts.items() if error >= 0.05),
                    voxels=f"{voxels:.1f}",
                )
            )
        return "\n".join(texts)

    # Guidance

    def guideAlong(self, parameters, progress=None):
        """Follow a tip along a planned line; with CT and segmentation, clearance and X-rays are there too."""
        from sacroplasty.navigation.clearance import ShaftClearance
        from sacroplasty.scene import anatomy, guidance, guidance_display, guidance_xrays, nodes, planning

        self.stopGuiding()
        ct, segmentation = parameters.ct, parameters.segmentation
        key = planning.clearance_key(segmentation, ct) if ct and segmentation else ct.GetID() if ct else None
        if self._preparedFor != key:
            tell = progress or (lambda fraction: None)
            self._clearance, self._xrays = None, ()
            if ct and segmentation:
                self._clearance = ShaftClearance.of_anatomy(
                    anatomy.anatomy_of(slicer.mrmlScene, segmentation, ct),
                    lambda done: tell(0.5 * done),
                    nodes.volume_of(ct),
                )
            if ct:
                self._xrays = guidance_xrays.guidance_xrays(
                    slicer.mrmlScene, ct, segmentation, lambda done: tell(0.5 + 0.5 * done)
                )
            self._preparedFor = key
        self._guide = guidance.Guide(
            slicer.mrmlScene,
            parameters.tipToRAS,
            parameters.trajectory,
            time.monotonic,
            self.today,
            self._clearance,
            self._volume(parameters),
            parameters.smoothingMs / 1000,
            SHOWN_S,
        )
        self._display = guidance_display.GuidanceDisplay(slicer.mrmlScene, parameters.tipToRAS)

    def _volume(self, parameters):
        """The tracker's volume, or None while it is not known. Raises a GeometryError for one that cannot be."""
        from sacroplasty.navigation.watchdog import WorkingVolume

        if not parameters.volumeFarMm:
            return None
        return WorkingVolume(
            (0.0, 0.0, 1.0),
            parameters.volumeNearMm,
            parameters.volumeFarMm,
            parameters.volumeNearHalfWidthMm,
            parameters.volumeFarHalfWidthMm,
        )

    def stopGuiding(self):
        if self._guide is not None:
            self._guide.close()
            self._display.close()
        self._guide = self._display = None

    def guidance(self):
        """A GuidanceReading, or None when there is nothing to follow."""
        return self._guide.reading() if self._guide is not None else None

    def display(self, reading, follow):
        """The trocar in the views, or none."""
        from sacroplasty.scene import guidance_display

        if self._guide is None or reading is None:
            return
        self._display.show(reading, self._guide.trajectory, self._guide.uncertainty)
        if follow and reading.valid:
            guidance_display.follow_in_slice_views(slicer.mrmlScene, reading.tip_ras, reading.ahead_ras)

    def xrays(self):
        return self._xrays if self._guide is not None else ()

    def bullsEye(self, reading, size):
        """Shapes of the bull's-eye; None when there is nothing to follow."""
        from sacroplasty.navigation import guidance, sketch

        if self._guide is None or self._guide.trajectory is None:
            return None
        shown = reading or guidance.blank("")
        return sketch.bulls_eye(shown, self._guide.trajectory, self._guide.uncertainty if reading else None, size)

    def depthGauge(self, reading, width, height):
        from sacroplasty.navigation import guidance, sketch

        return sketch.depth_gauge(reading or guidance.blank(""), self._guide.trajectory, width, height)

    def trocarOverXray(self, reading, xray, size):
        from sacroplasty.navigation import guidance, sketch

        shown = reading or guidance.blank("")
        return sketch.trocar_over_xray(shown, self._guide.trajectory, xray.geometry, size, shown.predicted_error_mm)

    def notLive(self):
        return self._guide.not_live() if self._guide is not None else ""

    def statusText(self):
        """How far tracking and registration can be relied upon, in words."""
        if self._guide is None:
            return ""
        level, text = self._guide.watch_text()
        return "\n".join(filter(None, (f"⚠ {text}" if level == "check" else "", self.registrationText())))

    def nearestText(self, reading):
        """The protected structure that is threatened most, and how near the shaft is to it."""
        nearest = reading.nearest
        if nearest.distance_mm == float("-inf"):
            return _("✘ Clearance unknown: {structure}").format(structure=self.readable(nearest.structure))
        return _("{symbol} {structure} {distance} mm").format(
            symbol="✘" if reading.may_touch else "✔",
            structure=self.readable(nearest.structure),
            distance=f"{nearest.distance_mm:.1f}",
        )

    def detailText(self, reading):
        """What the error of the shaft's place leaves of that, and what lies ahead."""
        nearest, texts = reading.nearest, []
        if nearest.distance_mm > float("-inf"):
            texts.append(
                _("{distance} mm with the error, breach {percent} %").format(
                    distance=f"{nearest.assured_mm:.1f}", percent=f"{100 * nearest.breach_probability:.0f}"
                )
            )
        if reading.ahead is not None:
            texts.append(
                _("ahead: {structure} after {distance} mm").format(
                    structure=self.readable(reading.ahead.structure), distance=f"{reading.ahead.distance_mm:.0f}"
                )
            )
        return "\n".join(texts)

    def warningsText(self):
        """What stands, the worst first, two at most; a symbol for each priority."""
        if self._guide is None:
            return ""
        symbols = {"high": "✘✘", "medium": "⚠", "low": "▸"}
        texts = []
        for warning in self._guide.alarms.standing[:2]:
            if warning.about == "guidance":
                text = _("guidance lost")
            elif warning.about == "target":
                text = _("beyond the target: draw back")
            elif warning.priority == "high":
                text = _("may touch {structure}").format(structure=self.readable(warning.about))
            else:
                text = _("near {structure}").format(structure=self.readable(warning.about))
            texts.append(f"{symbols[warning.priority]} {text}")
        return "\n".join(texts)

    def warningsColor(self):
        """Of the worst that stands."""
        standing = self._guide.alarms.standing if self._guide is not None else ()
        colors = {
            "high": "background-color: #d32f2f; color: white;",
            "medium": "background-color: #ffb300; color: black;",
            "low": "background-color: #4fc3f7; color: black;",
        }
        return colors[standing[0].priority] if standing else ""

    def sound(self, now):
        """The priority of the burst that begins now, or None."""
        return self._guide.alarms.sound(now) if self._guide is not None else None

    def pulses(self, priority):
        from sacroplasty.navigation import alarms

        return alarms.PULSES_S[priority]

    def pauseSound(self, now, seconds):
        if self._guide is not None:
            self._guide.alarms.pause_sound(now, seconds)

    def pausedSeconds(self, now):
        return self._guide.alarms.paused_s(now) if self._guide is not None else 0.0

    # As placed

    def placeTrocar(self, althoughOff=False):
        """Record that the trocar is left where it is now. Raises a CalibrationError when it is not in place."""
        from sacroplasty.errors import CalibrationError

        if self._guide is None:
            raise CalibrationError("guidance has not begun; press Guide first")
        return self._guide.place(althoughOff)

    def _depthText(self, depth_mm):
        text = _("{distance} mm too deep") if depth_mm > 0 else _("{distance} mm short")
        return text.format(distance=f"{abs(depth_mm):.1f}")

    def placedText(self):
        """The trocars that were left, with their deviation from the plan."""
        from sacroplasty.scene import navigation

        placed = navigation.trocars(slicer.mrmlScene)
        return "\n".join(
            _(
                "✔ {side}: {target} mm off the target ({depth}), entry {entry} mm off, {angle}° turned; "
                "each to {error} mm as expected"
            ).format(
                side=_("left") if side == "left" else _("right"),
                target=f"{off.target_mm:.1f}",
                depth=self._depthText(off.depth_mm),
                entry=f"{off.entry_mm:.1f}",
                angle=f"{off.angle_deg:.1f}",
                error=f"{placed[side].predicted_error_mm:.1f}",
            )
            for side, off in navigation.deviations(slicer.mrmlScene).items()
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
        from sacroplasty.scene import calibration, nodes

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
        logic.finishPivot()
        found = calibration.calibration_of(slicer.mrmlScene, "Stylus")
        self.assertLess(float(np.linalg.norm(found.tip_in_tool_mm - tip)), 0.1)
        logic.startCollecting(tool)
        logic.collect()
        with self.assertRaises(CalibrationError):
            logic.finishPivot()
        self.delayDisplay(_("Test passed"))
