import datetime
import enum
import importlib.util
import math
import os
import sys
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
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#: Column of the table that takes the room that is left.
NEAREST_COLUMN = 2
#: So far beyond the tip the views along a trocar can go: what lies ahead matters too.
BEYOND_TIP_MM = 20.0
#: Clearance from which figures say no more than that it is far [mm].
FAR_MM = 15.0

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
    """How the trocar reaches its target; the values are those of the engine."""

    SHORT_AXIS = "short-axis"
    LONG_AXIS = "long-axis"
    DOUBLE_NEEDLE = "double-needle"
    TRANSILIAC = "transiliac"
    BODY_S1 = "body-s1"
    BODY_S2 = "body-s2"
    BODY_S3 = "body-s3"

    def label(self):
        return {
            Technique.SHORT_AXIS: _("Short axis (posterolateral)"),
            Technique.LONG_AXIS: _("Long axis (parallel to the ala)"),
            Technique.DOUBLE_NEEDLE: _("Double needle (one per ala)"),
            Technique.TRANSILIAC: _("Transiliac (through ilium and joint)"),
            Technique.BODY_S1: _("S1 body"),
            Technique.BODY_S2: _("S2 body"),
            Technique.BODY_S3: _("S3 body"),
        }[self]


#
# SacroplastyPlanningParameterNode
#


@parameterNodeWrapper
class SacroplastyPlanningParameterNode:
    """
    ct, segmentation - What to plan on.
    left, right - The sides to plan.
    technique - The approach.
    needleName - A trocar of the catalogue; empty for one of diameterMm and lengthMm.
    marginMm, preferredMarginMm - Smallest clearance of the shaft that is accepted, and that is comfortable.
    stateAccuracy, registrationSd..., toolSd... - What navigation may be off, to be kept clear as well.
    biopsy, balloon ... - What else the trocar is to be good for.
    alaLimitMl, totalLimitMl, limitReason - Most cement, and why it is another limit than the usual.
    showMargin, showCement, showSpread - What is drawn with the selected trajectory.
    """

    ct: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    left: bool = True
    right: bool = True
    technique: Technique = Technique.SHORT_AXIS
    needleName: str = "11G diamond 150 mm"
    diameterMm: Annotated[float, WithinRange(0.8, 8.0)] = 3.05
    lengthMm: Annotated[float, WithinRange(30.0, 300.0)] = 150.0
    marginMm: Annotated[float, WithinRange(1.0, 10.0)] = 3.0
    preferredMarginMm: Annotated[float, WithinRange(1.0, 15.0)] = 5.0
    stateAccuracy: bool = False
    registrationSdMm: Annotated[float, WithinRange(0.0, 5.0)] = 0.5
    registrationSdDeg: Annotated[float, WithinRange(0.0, 5.0)] = 0.5
    toolSdMm: Annotated[float, WithinRange(0.0, 5.0)] = 0.3
    toolSdDeg: Annotated[float, WithinRange(0.0, 5.0)] = 0.5
    biopsy: bool = False
    biopsyThrowMm: Annotated[float, WithinRange(3.0, 40.0)] = 15.0
    balloon: bool = False
    balloonLengthMm: Annotated[float, WithinRange(5.0, 40.0)] = 15.0
    balloonDiameterMm: Annotated[float, WithinRange(3.0, 30.0)] = 12.0
    alaLimitMl: Annotated[float, WithinRange(0.5, 20.0)] = 8.0
    totalLimitMl: Annotated[float, WithinRange(0.5, 30.0)] = 12.0
    limitReason: str = ""
    showMargin: bool = True
    showCement: bool = True
    showSpread: bool = True


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
        self._drawn = None
        self._released = None
        self._nearestDepth = None
        self._alongTrocar = False

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
        header.setSectionResizeMode(NEAREST_COLUMN, qt.QHeaderView.Stretch)
        self.ui.clearanceTable.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for table in (self.ui.waysTable, self.ui.routesTable):
            table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
            table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for name in self.logic.needleNames():
            self.ui.needleComboBox.addItem(name)
        self.ui.needleComboBox.addItem(_("Other, by its numbers"))

        self.ui.needleComboBox.connect("activated(int)", self.onNeedleChosen)
        self.ui.planButton.connect("clicked(bool)", self.onPlanButton)
        self.ui.trajectoriesTable.connect("itemSelectionChanged()", self.onTrajectorySelected)
        self.ui.takeButton.connect("clicked(bool)", self.onTakeButton)
        self.ui.checkButton.connect("clicked(bool)", self.onCheckButton)
        self.ui.deleteButton.connect("clicked(bool)", self.onDeleteButton)
        self.ui.newButton.connect("clicked(bool)", self.onNewButton)
        self.ui.moveButton.connect("clicked(bool)", self.onMoveButton)
        self.ui.snapButton.connect("clicked(bool)", self.onSnapButton)
        self.ui.mirrorButton.connect("clicked(bool)", self.onMirrorButton)
        self.ui.undoButton.connect("clicked(bool)", self.onUndoButton)
        self.ui.nearestButton.connect("clicked(bool)", self.onNearestButton)
        self.ui.volumeButton.connect("clicked(bool)", self.onVolumeButton)
        self.ui.spreadButton.connect("clicked(bool)", self.onSpreadButton)
        self.ui.alongButton.connect("clicked(bool)", self.onAlongButton)
        self.ui.standardButton.connect("clicked(bool)", self.onStandardButton)
        self.ui.depthSlider.connect("valueChanged(double)", self.onDepthChanged)
        self.ui.exportButton.connect("clicked(bool)", self.onExportButton)
        self.ui.importButton.connect("clicked(bool)", self.onImportButton)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()

    def exit(self):
        """Called each time the user opens a different module: nothing stays unlocked behind its back."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.setParameterNode(None)
        self.logic.forget()

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
        """Set and observe the parameter node; None to let go of it and of the lines."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.ui.moveButton.checked = False
            self.logic.lockAll()
        self.observeLine(None)
        self.observeDrawn(None)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def observeLine(self, line):
        """Follow one line as it is dragged."""
        events = slicer.vtkMRMLMarkupsNode
        if self._line:
            self.removeObserver(self._line, events.PointModifiedEvent, self.onLineMoved)
            self.removeObserver(self._line, events.PointEndInteractionEvent, self.onLineReleased)
        self._line = line
        if self._line:
            self.addObserver(self._line, events.PointModifiedEvent, self.onLineMoved)
            self.addObserver(self._line, events.PointEndInteractionEvent, self.onLineReleased)

    def observeDrawn(self, line):
        """Wait for the two points of a new line; one that was not finished is taken away."""
        event = slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent
        if self._drawn:
            self.removeObserver(self._drawn, event, self.onPointPlaced)
            self.logic.removeDrawn(self._drawn)
        self._drawn = line
        if self._drawn:
            self.addObserver(self._drawn, event, self.onPointPlaced)
        self.ui.newButton.checked = line is not None

    # Plan automatically

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        hasCase = parameters.ct is not None and parameters.segmentation is not None
        hasSide = parameters.left or parameters.right
        if not hasCase:
            self.ui.planButton.toolTip = _("Select a CT and its segmentation.")
        elif not hasSide:
            self.ui.planButton.toolTip = _("Choose at least one side.")
        else:
            self.ui.planButton.toolTip = _("Search trajectories on the chosen sides.")
        self.ui.planButton.enabled = hasCase and hasSide
        self.ui.newButton.enabled = hasCase
        self.ui.importButton.enabled = hasCase
        names = self.logic.needleNames()
        isOther = parameters.needleName not in names
        self.ui.needleComboBox.currentIndex = len(names) if isOther else names.index(parameters.needleName)
        for row, shown in (
            ("diameterSlider", isOther),
            ("lengthSlider", isOther),
            ("registrationSdSlider", parameters.stateAccuracy),
            ("registrationSdDegSlider", parameters.stateAccuracy),
            ("toolSdSlider", parameters.stateAccuracy),
            ("toolSdDegSlider", parameters.stateAccuracy),
            ("biopsySlider", parameters.biopsy),
            ("balloonLengthSlider", parameters.balloon),
            ("balloonDiameterSlider", parameters.balloon),
        ):
            self.showRow(row, shown)
        self.logic.choose(parameters.ct, parameters.segmentation)
        self.showSelected()
        self.showSpread()
        self.showStatus()

    def showRow(self, name, shown):
        """Show or hide a widget of a form with its label."""
        getattr(self.ui, name).visible = shown
        getattr(self.ui, f"{name}Label").visible = shown

    def onNeedleChosen(self, index):
        names = self.logic.needleNames()
        self._parameterNode.needleName = names[index] if index < len(names) else ""

    def options(self):
        """What the page asks of a plan."""
        parameters = self._parameterNode
        return self.logic.options(
            technique=parameters.technique.value,
            needleName=parameters.needleName,
            diameterMm=parameters.diameterMm,
            lengthMm=parameters.lengthMm,
            marginMm=parameters.marginMm,
            preferredMarginMm=parameters.preferredMarginMm,
            accuracy=(
                parameters.registrationSdMm,
                parameters.registrationSdDeg,
                parameters.toolSdMm,
                parameters.toolSdDeg,
            )
            if parameters.stateAccuracy
            else None,
            biopsyThrowMm=parameters.biopsyThrowMm if parameters.biopsy else None,
            balloon=(parameters.balloonLengthMm, parameters.balloonDiameterMm) if parameters.balloon else None,
            limitsMl=(parameters.alaLimitMl, parameters.totalLimitMl),
            limitReason=parameters.limitReason,
        )

    def onPlanButton(self):
        """Plan, with the progress shown in a dialog that can cancel it."""
        sides = [side for side in ("left", "right") if self._parameterNode.getValue(side)]
        options = self.options()
        search = _("Searching trajectories…")
        # A canceled search keeps the selection.
        self.do(lambda: 0 if self.withProgress(search, lambda tell: self.logic.plan(sides, options, tell)) else None)

    def withProgress(self, text, work):
        """Do work(progress) with a dialog that shows how far it is; False when it was canceled."""
        dialog = slicer.util.createProgressDialog(
            labelText=text,
            windowTitle=_("Sacroplasty Planning"),
            windowModality=qt.Qt.WindowModal,
        )
        try:
            work(lambda fraction: self.showProgress(dialog, fraction))
            return True
        except Canceled:
            return False
        finally:
            dialog.close()

    def showProgress(self, dialog, fraction):
        """Tell how far it is, let Slicer breathe, and end it if the person wants that."""
        dialog.value = round(100 * fraction)
        slicer.app.processEvents()
        if dialog.wasCanceled:
            raise Canceled

    def do(self, change):
        """Change the plan. A refusal is said in the page, not in a dialog; then the page shows what the scene holds.

        :param change: gives the number of the trajectory to select, or None to keep the selection.
        """
        from sacroplasty.errors import SacroplastyError

        selected, refusal = None, ""
        with slicer.util.tryWithErrorDisplay(_("The plan was not changed."), waitCursor=True):
            try:
                selected = change()
            except SacroplastyError as error:
                refusal = f"✘ {error}"
        self.showPlan(selected)
        self.showMessage(refusal)

    def showMessage(self, text):
        """Why the last change was refused; nothing takes no room."""
        self.ui.messageLabel.text = text
        self.ui.messageLabel.visible = bool(text)

    # Compare

    def showPlan(self, selected=None):
        """Fill the table of trajectories and select one: the given one, else the same line as before."""
        rows = self.logic.rows()
        if selected is None:
            same = [number for number, row in enumerate(rows) if row.line is not None and row.line is self._line]
            selected = same[0] if same else 0
        table = self.ui.trajectoriesTable
        table.blockSignals(True)
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, text in enumerate(self.logic.rowTexts(row)):
                self.setCell(table, number, column, text).setToolTip(self.logic.toolTip(row))
        table.clearSelection()
        if rows:
            table.selectRow(min(selected, len(rows) - 1))
        table.blockSignals(False)
        self.showMessage("")
        self.ui.exportButton.enabled = bool(rows)
        self.onTrajectorySelected()
        self.showStatus()

    @staticmethod
    def setCell(table, row, column, text):
        """Show a text in a cell, made anew only when there is none: this follows the mouse."""
        item = table.item(row, column)
        if item is None:
            item = qt.QTableWidgetItem(text)
            table.setItem(row, column, item)
        else:
            item.setText(text)
        return item

    def showStatus(self):
        """Whether each side has a trajectory, and whether the plan was judged by what the page asks for now."""
        from sacroplasty.errors import SacroplastyError

        differs = False
        try:
            differs = self.logic.differs(self.options())
            self.ui.optionsLabel.text = ""
        except SacroplastyError as error:
            self.ui.optionsLabel.text = f"✘ {error}"
            self.ui.planButton.enabled = False
        self.ui.optionsLabel.visible = bool(self.ui.optionsLabel.text)
        self.ui.statusLabel.text = self.logic.statusText()
        self.ui.checkButton.enabled = differs or any(row.is_moved for row in self.logic.rows())
        self.ui.checkLabel.visible = differs
        self.ui.undoButton.enabled = self.logic.canUndo()

    def selected(self):
        """Number of the selected trajectory and its row; None for both without one."""
        index = self.ui.trajectoriesTable.currentRow()
        rows = self.logic.rows()
        return (index, rows[index]) if self._parameterNode and 0 <= index < len(rows) else (None, None)

    def onTrajectorySelected(self):
        """Show the selected trajectory, unlock it if asked for, and follow it."""
        row = self.selected()[1]
        for button in (self.ui.moveButton, self.ui.snapButton, self.ui.mirrorButton, self.ui.deleteButton):
            button.enabled = row is not None
        for button in (self.ui.volumeButton, self.ui.alongButton, self.ui.standardButton, self.ui.nearestButton):
            button.enabled = row is not None
        self.ui.spreadButton.enabled = row is not None
        self.showSpread()
        self.ui.takeButton.enabled = row is not None and row.trajectory.accepted and not row.is_chosen
        if row is None:
            self.observeLine(None)
            self.ui.detailLabel.text = ""
            self.showClearance({})
            return
        self.ui.detailLabel.text = self.logic.detailText(row)
        self.ui.volumeSlider.value = row.trajectory.planned_volume_ml
        self.ui.depthSlider.maximum = round(row.trajectory.length_mm + BEYOND_TIP_MM)
        self.showSelected()
        self.observeLine(row.line)
        self.onLineMoved()

    def showSelected(self):
        """Draw the selected trajectory as the page says."""
        index, row = self.selected()
        if row is not None:
            parameters = self._parameterNode
            self.logic.select(index, self.ui.moveButton.checked, parameters.showMargin, parameters.showCement)

    def onTakeButton(self):
        self.do(lambda: self.logic.take(self.selected()[0]))

    def onCheckButton(self):
        self.do(lambda: self.logic.checkAll(self.options()))

    def onDeleteButton(self):
        self.do(lambda: self.logic.delete(self.selected()[0]))

    # Adjust by hand

    def onNewButton(self):
        """Let the next two clicks into views place entry and target; pressed again, not."""
        if self._drawn:
            self.observeDrawn(None)
        else:
            self.observeDrawn(self.logic.drawLine())

    def onPointPlaced(self, caller=None, event=None):
        """After the second point: once Slicer is done with the click, the line becomes a trajectory."""
        if self.logic.isDrawn(self._drawn):
            qt.QTimer.singleShot(0, self.addDrawn)

    def addDrawn(self):
        if not (self._parameterNode and self.logic.isDrawn(self._drawn)):
            return
        ends = self.logic.endsOf(self._drawn)
        self.observeDrawn(None)
        self.do(lambda: self.logic.add(ends, self.options()))

    def onMoveButton(self, checked):
        """Unlock the line once its clearance can follow it."""
        self.do(self.logic.prepare if checked else lambda: None)
        if checked and not self.logic.isReady():
            self.ui.moveButton.checked = False
            self.showSelected()

    def onLineMoved(self, caller=None, event=None):
        """Clearance of the line where it is now; as it was checked while the distances are not known yet."""
        reading = self.logic.live(self.ui.trajectoriesTable.currentRow()) if self._line else None
        if reading is not None:
            self._nearestDepth = reading.depth_mm
            self.showClearance(reading.clearance_mm)
            return
        self._nearestDepth = None
        row = self.selected()[1]
        known = row is not None and not row.is_moved
        self.showClearance(self.logic.sortedClearance(row) if known else {})

    def onLineReleased(self, caller=None, event=None):
        """A person let go of the line: once Slicer is done with the mouse, it is checked there."""
        qt.QTimer.singleShot(0, self.checkMoved)

    def checkMoved(self):
        index, row = self.selected()
        if row is not None and row.is_moved:
            self.do(lambda: self.logic.move(index, self.options()))

    def showClearance(self, clearance):
        """The nearest structure in large letters with a symbol, all of them in the table; a dash when unknown."""
        table = self.ui.clearanceTable
        table.setRowCount(len(clearance))
        for number, (name, distance) in enumerate(clearance.items()):
            self.setCell(table, number, 0, self.logic.readable(name))
            self.setCell(table, number, 1, self.logic.millimeters(distance))
        text, color = self.logic.clearanceText(clearance)
        self.ui.clearanceLabel.text = text
        self.ui.clearanceLabel.styleSheet = f"font-size: 18pt; font-weight: bold; color: {color};"

    def onSnapButton(self):
        self.do(lambda: self.logic.snap(self.selected()[0], self.options()))

    def onMirrorButton(self):
        self.do(lambda: self.logic.mirror(self.selected()[0], self.options()))

    def onUndoButton(self):
        def undo():
            self.logic.undo()
            self.showLimits()

        self.do(undo)

    def onVolumeButton(self):
        """Plan another volume. What that changes of the limits stands in the page then."""

        def change():
            reason = self.ui.volumeReasonLineEdit.text
            self.logic.setVolume(self.selected()[0], self.ui.volumeSlider.value, reason, self.options())
            self.ui.volumeReasonLineEdit.text = ""
            self.showLimits()

        self.do(change)

    def showLimits(self):
        """The limits of volume that the plan was judged by."""
        (ala, total), reason = self.logic.limits()
        parameters = self._parameterNode
        was = parameters.StartModify()
        parameters.alaLimitMl, parameters.totalLimitMl, parameters.limitReason = ala, total, reason
        parameters.EndModify(was)

    # Predicted spread

    def onSpreadButton(self):
        """Predict where the cement of the selected trajectory goes; canceled, the scene stays as it was."""
        row, text = self.selected()[1], _("Predicting the spread…")

        def predict():
            self.withProgress(text, lambda tell: self.logic.predictSpread(row, tell))

        self.do(predict)

    def showSpread(self):
        """The prediction for the selected trajectory. An outdated one is only said to be so."""
        row = self.selected()[1]
        found = self.logic.spread(row)
        self.logic.showSpread(row, self._parameterNode is not None and self._parameterNode.showSpread)
        self.ui.spreadLabel.text = self.logic.spreadText(row, found)
        for table, texts in (
            (self.ui.waysTable, self.logic.wayTexts(row, found)),
            (self.ui.routesTable, self.logic.routeTexts(found)),
        ):
            table.setRowCount(len(texts))
            for number, columns in enumerate(texts):
                for column, text in enumerate(columns):
                    self.setCell(table, number, column, text)
            table.visible = bool(texts)

    # Views

    def onAlongButton(self):
        self._alongTrocar = True
        self.onDepthChanged(self.ui.depthSlider.value)

    def onStandardButton(self):
        self._alongTrocar = False
        self.logic.showStandardPlanes(self.selected()[0])

    def onDepthChanged(self, depth):
        if self._alongTrocar and self._line:
            self.logic.showAlongTrocar(self.selected()[0], depth)

    def onNearestButton(self):
        """Turn the views to the place where the shaft is nearest to a structure."""
        self.do(self.logic.prepare)
        if self._nearestDepth is not None:
            self._alongTrocar = True
            self.ui.depthSlider.value = self._nearestDepth
            self.onDepthChanged(self._nearestDepth)

    # Export and import

    def onExportButton(self):
        def export():
            folder = self.ui.exportPathLineEdit.currentPath
            self.logic.export(folder)
            self.ui.exportPathLineEdit.addCurrentPathToHistory()
            self.ui.exportLabel.text = _("✔ Written to {folder}").format(folder=folder)

        self.ui.exportLabel.text = ""
        self.do(export)
        self.ui.exportLabel.text = self.ui.exportLabel.text or self.ui.messageLabel.text

    def onImportButton(self):
        def read():
            first = self.logic.importFile(self.ui.importPathLineEdit.currentPath, self.options())
            self.ui.exportLabel.text = self.logic.importedText()
            return first

        self.ui.exportLabel.text = ""
        self.do(read)
        self.ui.exportLabel.text = self.ui.exportLabel.text or self.ui.messageLabel.text


#
# SacroplastyPlanningLogic
#


class SacroplastyPlanningLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene; usable without the widget. Numbers are those of the plan's trajectories."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._desk = None

    def getParameterNode(self):
        return SacroplastyPlanningParameterNode(super().getParameterNode())

    def desk(self):
        """The plan of the scene and what can be done with it."""
        from sacroplasty.scene.plan_desk import PlanDesk

        if self._desk is None:
            self._desk = PlanDesk(slicer.mrmlScene)
        return self._desk

    def forget(self):
        """Let go of the scene's patient."""
        self._desk = None

    def segmentedCT(self):
        """CT and segmentation that the case goes on with; None for what is not there."""
        from sacroplasty.scene import anatomy

        return anatomy.segmented_ct(slicer.mrmlScene)

    def choose(self, ct, segmentation):
        """Say on which CT and segmentation to work."""
        from sacroplasty.scene import dicom

        if ct is not None:
            # Slicer has a DICOM database only when its DICOM module is there.
            dicom.note_frame_of_reference(ct, getattr(slicer, "dicomDatabase", None))
        self.desk().choose(ct, segmentation)

    def prepare(self):
        """Compute the distances of this patient, unless they are known."""
        self.desk().context()

    def isReady(self):
        return self.desk().is_ready

    def needleNames(self):
        from sacroplasty.planning import needles

        return [needle.name for needle in needles.catalogue()]

    def options(
        self,
        technique,
        needleName,
        diameterMm,
        lengthMm,
        marginMm,
        preferredMarginMm,
        accuracy=None,
        biopsyThrowMm=None,
        balloon=None,
        limitsMl=(8.0, 12.0),
        limitReason="",
    ):
        """What is asked of a plan.

        :param needleName: of the catalogue; any other stands for a trocar of diameterMm and lengthMm.
        :param accuracy: standard deviations of registration (mm, degrees) and tool (mm, degrees); None to state none.
        :param balloon: length and diameter in mm.
        :param limitsMl: most cement for one ala and in total.
        """
        from sacroplasty.planning import needles
        from sacroplasty.planning.model import Accuracy
        from sacroplasty.planning.options import BalloonSize, PlanOptions
        from sacroplasty.scene.plan_desk import limit_overrides
        from sacroplasty.xray.reach import read_range

        known = {needle.name: needle for needle in needles.catalogue()}
        return PlanOptions(
            technique=technique,
            needle=known.get(needleName) or needles.custom_needle(diameterMm, lengthMm),
            margin_mm=marginMm,
            preferred_margin_mm=max(marginMm, preferredMarginMm),
            accuracy=None if accuracy is None else Accuracy(*accuracy),
            overrides=limit_overrides(*limitsMl, limitReason),
            balloon=None if balloon is None else BalloonSize(*balloon),
            biopsy_throw_mm=biopsyThrowMm,
            view_is_feasible=read_range().contains,
        )

    def plan(self, sides, options, progress=None):
        """Search trajectories and show them as locked lines.

        :param sides: some of "left", "right".
        :param progress: called with 0 to 1.
        """
        self.desk().search(sides, options, progress)

    def rows(self):
        return self.desk().rows()

    def select(self, index, movable, margin, cement):
        """Show a trajectory alone on its side; movable if it is to be dragged."""
        return self.desk().select(index, movable, margin, cement)

    def lockAll(self):
        self.desk().lock_all()

    def live(self, index):
        """What is near the line now; None while the distances are not known."""
        return self.desk().live(index)

    def move(self, index, options):
        return self.desk().move(index, options)

    def snap(self, index, options):
        return self.desk().snap(index, options)

    def mirror(self, index, options):
        return self.desk().mirror(index, options)

    def take(self, index):
        return self.desk().take(index)

    def delete(self, index):
        self.desk().delete(index)

    def checkAll(self, options):
        self.desk().check_all(options)

    def setVolume(self, index, volumeMl, reason, options):
        self.desk().set_volume(index, volumeMl, reason, options)

    def limits(self):
        """Limits of volume that the plan was judged by: for one ala, in total, and why they are not the usual ones."""
        return self.desk().limits()

    def undo(self):
        self.desk().undo()

    def canUndo(self):
        return self.desk().can_undo

    def differs(self, options):
        """Whether the plan was judged by other margins, errors or limits than these."""
        return self.desk().differs(options)

    # New lines

    def drawLine(self):
        """A line whose points the next two clicks into views place: entry, then target."""
        line = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", _("New trajectory"))
        line.CreateDefaultDisplayNodes()
        markups = slicer.modules.markups.logic()
        markups.SetActiveList(line)
        markups.StartPlaceMode(False)
        return line

    def isDrawn(self, line):
        return line is not None and line.GetNumberOfDefinedControlPoints() == 2

    def endsOf(self, line):
        from sacroplasty.scene import nodes

        return nodes.line_points(line)

    def add(self, ends, options):
        return self.desk().add([ends], options)

    def removeDrawn(self, line):
        """Take a line away that is part of the plan now, or was not finished; clicks place no more points."""
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interaction:
            interaction.SwitchToViewTransformMode()
        slicer.mrmlScene.RemoveNode(line)

    # Predicted spread

    def predictSpread(self, row, progress=None):
        """Predict the spread of a trajectory and show it in the scene.

        :param progress: called with 0 to 1; may raise to end it.
        """
        from sacroplasty.scene import plan_spread

        plan_spread.predict(slicer.mrmlScene, row, progress)

    def spread(self, row):
        """The prediction of a trajectory as it is planned now; None when there is none."""
        from sacroplasty.scene import plan_spread

        return None if row is None else plan_spread.current(slicer.mrmlScene, row)

    def showSpread(self, selected, visible):
        """Draw predictions that hold: that of the selected trajectory, and that of the one used on the other side."""
        from sacroplasty.scene import plan_spread

        used = [row for row in self.rows() if row.is_chosen]
        plan_spread.show_current(slicer.mrmlScene, ([] if selected is None else [selected]) + used, visible)

    # Views

    def showAlongTrocar(self, index, depthMm):
        from sacroplasty.scene import nodes, plan_views

        plan_views.show_along_trocar(slicer.mrmlScene, *nodes.line_points(self.rows()[index].line), depthMm)

    def showStandardPlanes(self, index):
        from sacroplasty.scene import plan_views

        plan_views.show_standard_planes(slicer.mrmlScene, self.rows()[index].trajectory.target)

    # Files

    def export(self, folder):
        """Write the plan in all formats into a folder."""
        from sacroplasty.scene import plan_files

        today = datetime.date.today().isoformat()
        plan_files.export_plan(slicer.mrmlScene, folder, self.desk(), today)

    def importFile(self, path, options):
        """Add the trajectories of a plan, or lines made elsewhere. Gives the number of the first."""
        from sacroplasty.scene import plan_files

        return plan_files.import_file(path, self.desk(), options)

    # Texts

    def importedText(self):
        """That what was imported is of this CT, and how that was found."""
        if self.desk().frame_of_reference is None:
            return _("✔ Read and checked on this CT, told by its image alone: it has no DICOM frame of reference.")
        return _("✔ Read and checked on this CT.")

    def readable(self, name):
        from sacroplasty.scene import anatomy

        return anatomy.readable(name)

    def millimeters(self, distance):
        """A clearance; far away nobody needs to know how far."""
        if not math.isfinite(distance):
            return _("not known")
        return f"{distance:.1f}" if distance < FAR_MM else f"> {FAR_MM:.0f}"

    def inWords(self, text, row):
        """A sentence of the engine with its names of structures as people read them."""
        from sacroplasty.scene import planning

        return planning.in_words(text, row.trajectory)

    def sortedClearance(self, row):
        return dict(sorted(row.trajectory.clearance_mm.items(), key=lambda item: item[1]))

    def nearestName(self, row):
        """The nearest structure without the side that the row has anyway."""
        return self.readable(row.nearest).removesuffix(f" {row.trajectory.side}") if row.nearest else "–"

    def rowTexts(self, row):
        """What the table says of a trajectory, column by column."""
        trajectory = row.trajectory
        if row.is_moved:
            symbol = "⚠"
        elif not trajectory.accepted:
            symbol = "✘"
        else:
            symbol = "★" if row.is_chosen else "✔"
        merits = {"safest": _("safe"), "best-filling": _("filling"), "shortest": _("short")}
        side = _("Left") if trajectory.side == "left" else _("Right")
        drawn = {"search": "", "manual": " ✎", "imported": " ⇩"}[trajectory.source]
        tilt, breach = trajectory.incidence_deg, row.riskiest_breach
        return (
            symbol,
            f"{side} {row.name.rsplit(' ', 1)[-1]}{drawn}",
            _("moved: check again") if row.is_moved else f"{self.millimeters(row.nearest_mm)} {self.nearestName(row)}",
            f"{trajectory.length_mm:.0f}",
            "–" if tilt is None else f"{tilt:.0f}°",
            f"{trajectory.planned_volume_ml:.1f}",
            "–" if breach is None else self.percent(breach),
            ", ".join(merits[merit] for merit in trajectory.merits),
        )

    def percent(self, probability):
        from sacroplasty.scene.plan_page import percent

        return percent(probability)

    def share(self, part):
        """A share of few simulated bones, which has no decimals to tell."""
        return f"{100 * part:.0f} %"

    def techniqueText(self, row):
        label = next((one.label() for one in Technique if one.value == row.trajectory.technique), "")
        return f"{label}, {row.trajectory.needle.name}"

    def toolTip(self, row):
        lines = [self.techniqueText(row), f"{self.millimeters(row.nearest_mm)} mm, {self.nearestName(row)}"]
        probabilities = sorted(row.trajectory.breach_probability.items(), key=lambda item: -item[1])
        for name, probability in probabilities[:3]:
            text = _("Probability of entering {structure}: {percent}")
            lines.append(text.format(structure=self.readable(name), percent=self.percent(probability)))
        return "\n".join(lines)

    def detailText(self, row):
        """Technique, trocar, why it is refused, what to mind, and where the cement goes."""
        trajectory = row.trajectory
        lines = [self.techniqueText(row)]
        if row.is_moved:
            lines.append(_("⚠ This line was moved and not checked since. Press Check again, or Undo to put it back."))
        lines += [f"✘ {self.inWords(reason, row)}" for reason in trajectory.reasons]
        lines += [f"⚠ {self.inWords(caution, row)}" for caution in trajectory.cautions]
        for number, depot in enumerate(trajectory.depots, start=1):
            text = _("Cement {number}: {volume} mL").format(number=number, volume=f"{depot.volume_ml:.1f}")
            if depot.note or number > 1:
                lines.append(f"{text}, {depot.note}" if depot.note else text)
        if trajectory.balloon is not None:
            lines.append(_("Balloon of {diameter} mm").format(diameter=f"{trajectory.balloon.diameter_mm:.0f}"))
        return "\n".join(lines)

    def spreadText(self, row, found):
        """What is predicted for a trajectory, in a few lines."""
        from sacroplasty.scene import spread

        if row is None:
            return ""
        if found is None:
            if spread.summary(slicer.mrmlScene, row.trajectory.side) is None:
                return _("Not predicted yet.")
            return _("⚠ Outdated: the last prediction is of another tip, volume or segmentation. Predict again.")
        leak = _("{symbol} {volume} mL: cement leaves the bone in {share} of {members} simulated bones")
        lines = [
            leak.format(
                symbol="⚠" if found.any_leak > 0 else "✔",
                volume=f"{found.volume_ml:.1f}",
                share=self.share(found.any_leak),
                members=found.members,
            )
        ]
        if not row.trajectory.technique.startswith("body"):
            lines.append(_("{share} of it in the planned ala").format(share=self.share(found.in_plan_fraction)))
        lines.append(_("Pressure in the line {pressure}").format(pressure=found.pressure_text))
        if found.volume_ml > found.room_ml:
            lines.append(_("⚠ Only {room} mL find room in the bone").format(room=f"{found.room_ml:.1f}"))
        lines += [f"⚠ {found.warning}"] if found.warning else []
        lines.append(_("By assumptions about bone that no image shows; not compared with patients."))
        return "\n".join(lines)

    def wayTexts(self, row, found):
        """The planned way to give the cement and others, column by column."""
        if found is None:
            return []
        names = {
            "all at the target": _("All at the target"),
            "less, at the target": _("Less, at the target"),
        }
        planned = _("As planned") if len(row.trajectory.depots) == 1 else _("As planned, withdrawn")
        first = found.rows[0].route if found.rows and found.any_leak > 0 else ""
        depots = [depot.volume_ml for depot in row.trajectory.depots if depot.volume_ml > 0]
        ways = [(planned, depots, found.any_leak, first)]
        ways += [(names[way], other.depots_ml, other.any_leak, other.route) for way, other in found.others.items()]
        return [
            (f"{name}: {' + '.join(f'{volume:.1f}' for volume in volumes)} mL", self.share(leaks), route or "–")
            for name, volumes, leaks, route in ways
        ]

    def routeTexts(self, found):
        """Routes by which cement may leave the bone, column by column."""
        if found is None:
            return []

        def milliliters(volume):
            return "–" if volume is None else f"{volume:.1f}"

        return [
            (
                route.route,
                "{} ({} to {})".format(*(self.share(part) for part in (route.probability, *route.interval))),
                milliliters(route.from_ml),
                milliliters(route.at_risk_ml),
            )
            for route in found.rows
        ]

    def statusText(self):
        """Whether each side of the plan has a trajectory, one line a side."""
        foreign = self.desk().why_foreign
        if foreign:
            return f"✘ {foreign}"
        rows = self.rows()
        if not rows:
            return _("Nothing was planned yet.")
        lines = []
        for side, name in (("left", _("Left")), ("right", _("Right"))):
            ofSide = [row for row in rows if row.trajectory.side == side]
            used = next((row for row in ofSide if row.is_chosen), None)
            if used is not None and not used.is_moved:
                text = _("✔ {side}: {distance} mm to {structure}, {volume} mL").format(
                    side=name,
                    distance=self.millimeters(used.nearest_mm),
                    structure=self.nearestName(used),
                    volume=f"{used.trajectory.planned_volume_ml:.1f}",
                )
                lines.append(text)
            elif ofSide:
                lines.append(_("✘ {side}: no accepted trajectory. Select one to see why.").format(side=name))
        gaps = self.desk().gaps_of_both_mm()
        if gaps is not None:
            text = _("⚠ Not both at a time: shafts {shafts} mm, hubs {hubs} mm apart")
            lines.append(text.format(shafts=f"{gaps[0]:.0f}", hubs=f"{gaps[1]:.0f}"))
        return "\n".join(lines)

    def clearanceText(self, clearance):
        """The nearest structure with a symbol, and its color; a dash when nothing is known."""
        if not clearance:
            return "–", "#555555"
        margin, preferred = self.desk().margins()
        name, distance = next(iter(clearance.items()))
        if not math.isfinite(distance):
            return _("✘ {structure} is not known").format(structure=self.readable(name)), "#b00020"
        if distance >= preferred:
            symbol, color = "✔", "#1b7f3b"
        elif distance >= margin:
            symbol, color = "⚠", "#9a5b00"
        else:
            symbol, color = "✘", "#b00020"
        text = _("{distance} mm to {structure}").format(distance=f"{distance:.1f}", structure=self.readable(name))
        return f"{symbol} {text}", color


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
        """A line beside a canal of known place has no more clearance than a ruler gives, and little less."""
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
        logic.choose(ct, segmentation)
        options = logic.options("short-axis", "11G diamond 150 mm", 0.0, 0.0, 3.0, 5.0)
        index = logic.add(([30.0, 25.0, 60.0], [30.0, 25.0, 40.0]), options)
        clearance = logic.live(index).clearance_mm
        # The canal ends half a voxel beyond its last centre at 20 mm; 11 G has a radius of 1.524 mm. Planning takes off
        # what labels and grid leave open, and must never add to it.
        ruler = 30.0 - 20.5 - 1.524
        self.assertLess(clearance["sacral_canal"], ruler + 0.3)
        self.assertGreater(clearance["sacral_canal"], ruler - 4.0)
        self.assertEqual(clearance["foramen_s1_right"], float("-inf"))
        self.assertFalse(logic.rows()[index].trajectory.accepted)
        self.delayDisplay(_("Test passed"))
