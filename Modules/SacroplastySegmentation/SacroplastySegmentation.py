import enum
import importlib.util
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
from slicer import (
    vtkMRMLDisplayableNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
)

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastySegmentation
#


class SacroplastySegmentation(ScriptedLoadableModule):
    """Bones, canal, foramina, alae, landmarks and fractures of the sacrum in a CT, confirmed by a person."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Finds sacrum, L5 and hips in a CT, then the sacral canal, the foramina, the alae and the landmarks; "
            "corrects, confirms and marks fractures; lays an MRI on it. Research software, not a medical device: "
            "a person must check every structure."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


# Side of a new plane: an ala is about as high.
PLANE_MM = 60.0


class Canceled(Exception):
    """The person pressed Cancel in the progress dialog."""


#
# SacroplastySegmentationParameterNode
#


class BoneMethod(enum.Enum):
    AUTO = "auto"
    ATLAS = "atlas"
    TOTALSEGMENTATOR = "totalsegmentator"
    LABELS = "labels"

    def label(self):
        """What the combo box shows."""
        return {
            BoneMethod.AUTO: _("Automatic"),
            BoneMethod.ATLAS: _("Built-in"),
            BoneMethod.TOTALSEGMENTATOR: _("TotalSegmentator"),
            BoneMethod.LABELS: _("Label map"),
        }[self]


@parameterNodeWrapper
class SacroplastySegmentationParameterNode:
    """
    ct - The CT of the pelvis.
    method - How the bones are found.
    labels - Label map or segmentation of the bones, for the method that needs one.
    segmentation - The result.
    clicks - Points that correct the bones, named by what is there.
    curve, plane - What a fracture is being marked with.
    mri - An MRI of the same patient.
    mriOpacity - How much of it shows over the CT.
    """

    ct: vtkMRMLScalarVolumeNode
    method: BoneMethod = BoneMethod.AUTO
    labels: vtkMRMLDisplayableNode
    segmentation: vtkMRMLSegmentationNode
    clicks: vtkMRMLMarkupsFiducialNode
    curve: vtkMRMLMarkupsCurveNode
    plane: vtkMRMLMarkupsPlaneNode
    mri: vtkMRMLScalarVolumeNode
    mriOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5


#
# SacroplastySegmentationWidget
#


class SacroplastySegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._rows = []
        self._markups = []
        self._shown = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastySegmentation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastySegmentationLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        for table in (self.ui.structuresTable, self.ui.classificationTable):
            table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
            table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for text in (_("not asked"), _("no"), _("yes")):
            self.ui.ringComboBox.addItem(text)
        self.ui.suggestionNoticeLabel.text = self.logic.suggestionNotice()
        # Either of two node classes: more than a parameter can be tied to, so it is tied by hand.
        self.ui.labelsSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onLabelsSelected)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.structuresTable.connect("itemSelectionChanged()", self.onStructureSelected)
        self.ui.structuresTable.connect("cellDoubleClicked(int,int)", self.onJumpButton)
        self.ui.jumpButton.connect("clicked(bool)", self.onJumpButton)
        self.ui.confirmButton.connect("clicked(bool)", self.onConfirmButton)
        self.ui.withdrawButton.connect("clicked(bool)", self.onWithdrawButton)
        self.ui.nextButton.connect("clicked(bool)", self.onNextButton)
        self.ui.editButton.connect("clicked(bool)", self.onEditButton)
        self.ui.recomputeButton.connect("clicked(bool)", self.onRecomputeButton)
        self.ui.restoreButton.connect("clicked(bool)", self.onRestoreButton)
        self.ui.sacrumClickButton.connect("clicked(bool)", self.onSacrumClickButton)
        self.ui.l5ClickButton.connect("clicked(bool)", self.onL5ClickButton)
        self.ui.hipClickButton.connect("clicked(bool)", self.onHipClickButton)
        self.ui.backgroundClickButton.connect("clicked(bool)", self.onBackgroundClickButton)
        self.ui.growButton.connect("clicked(bool)", self.onGrowButton)
        self.ui.clearClicksButton.connect("clicked(bool)", self.onClearClicksButton)
        self.ui.suggestButton.connect("clicked(bool)", self.onSuggestButton)
        self.ui.suggestionsList.connect("itemSelectionChanged()", self.onSuggestionSelected)
        self.ui.suggestionsList.connect("itemDoubleClicked(QListWidgetItem*)", self.onSuggestionJumpButton)
        self.ui.suggestionJumpButton.connect("clicked(bool)", self.onSuggestionJumpButton)
        self.ui.acceptButton.connect("clicked(bool)", self.onAcceptButton)
        self.ui.dismissButton.connect("clicked(bool)", self.onDismissButton)
        self.ui.drawCurveButton.connect("clicked(bool)", self.onDrawCurveButton)
        self.ui.placePlaneButton.connect("clicked(bool)", self.onPlacePlaneButton)
        self.ui.markCurveButton.connect("clicked(bool)", self.onMarkCurveButton)
        self.ui.markPlaneButton.connect("clicked(bool)", self.onMarkPlaneButton)
        self.ui.fracturesList.connect("itemSelectionChanged()", self.onFractureSelected)
        self.ui.removeFractureButton.connect("clicked(bool)", self.onRemoveFractureButton)
        self.ui.classificationTable.connect("itemSelectionChanged()", self.onFieldSelected)
        self.ui.confirmFieldButton.connect("clicked(bool)", self.onConfirmFieldButton)
        self.ui.withdrawFieldButton.connect("clicked(bool)", self.onWithdrawFieldButton)
        self.ui.ringComboBox.connect("activated(int)", self.onRingAnswered)
        self.ui.registerButton.connect("clicked(bool)", self.onRegisterButton)
        self.ui.oedemaButton.connect("clicked(bool)", self.onOedemaButton)
        self.ui.removeMRIButton.connect("clicked(bool)", self.onRemoveMRIButton)
        self.ui.opacitySlider.connect("valueChanged(double)", self.onOpacityChanged)

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
        self.logic.stopPlacing()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists, is observed and names a CT if there is one."""
        self.setParameterNode(self.logic.getParameterNode())
        ct, segmentation = self.logic.segmentedCT()
        if not self._parameterNode.ct:
            self._parameterNode.ct = ct
        if not self._parameterNode.segmentation:
            self._parameterNode.segmentation = segmentation

    def setParameterNode(self, inputParameterNode):
        """Set and observe the parameter node; None to let go of it and of the points being placed."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.observeMarkups(())
        self._shown = None
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def observeMarkups(self, nodes):
        """Follow the points that a person places."""
        markups = slicer.vtkMRMLMarkupsNode
        events = (markups.PointPositionDefinedEvent, markups.PointPositionUndefinedEvent, markups.PointRemovedEvent)
        for observed, method in ((self._markups, self.removeObserver), (nodes, self.addObserver)):
            for node in observed:
                for event in events:
                    method(node, event, self.onPointsChanged)
        self._markups = list(nodes)

    def onLabelsSelected(self, node):
        if self._parameterNode and self._parameterNode.labels is not node:
            self._parameterNode.labels = node

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        byLabels = parameters.method == BoneMethod.LABELS
        self.ui.labelsSelector.setCurrentNode(parameters.labels)
        self.ui.labelsSelector.visible = byLabels
        self.ui.labelsSelectorLabel.visible = byLabels
        self.ui.ctHintLabel.visible = parameters.ct is None
        ready = parameters.ct is not None and (parameters.labels is not None or not byLabels)
        self.ui.applyButton.enabled = ready
        if ready:
            self.ui.applyButton.toolTip = _("Find bones, canal, foramina, alae and landmarks.")
        else:
            self.ui.applyButton.toolTip = _("Select a CT and its labels.") if byLabels else _("Select a CT.")
        self.observeMarkups([node for node in (parameters.clicks, parameters.curve, parameters.plane) if node])
        # A slider that is dragged must not measure all segments at every step.
        nodes = (parameters.ct, parameters.segmentation, parameters.clicks, parameters.curve, parameters.plane)
        shown = [node.GetID() if node else None for node in (*nodes, parameters.mri)]
        if shown != self._shown:
            self.showResult()
            self._shown = shown

    # Working, with progress

    def work(self, failure, text, function):
        """Result of function(progress), with a dialog that can cancel it; None when it failed or was canceled.

        An error is shown and leaves the scene as it was. Either way the panel then shows what the scene holds.
        """
        result = None
        canceled = False
        try:
            with slicer.util.tryWithErrorDisplay(failure):
                dialog = slicer.util.createProgressDialog(
                    labelText=text, windowTitle=_("Sacroplasty Segmentation"), windowModality=qt.Qt.WindowModal
                )
                try:
                    result = function(lambda fraction: self.showProgress(dialog, fraction))
                except Canceled:
                    canceled = True
                finally:
                    dialog.close()
        finally:
            self.showResult()
        if canceled:
            self.ui.statusLabel.text = _("Canceled. Nothing was changed.")
        return result

    def showProgress(self, dialog, fraction):
        """Tell how far it is, let Slicer breathe, and end it if the person wants that."""
        dialog.value = round(100 * fraction)
        slicer.app.processEvents()
        if dialog.wasCanceled:
            raise Canceled

    def do(self, failure, function):
        """Result of something short; an error is shown. Then the panel shows what the scene holds."""
        result = None
        try:
            with slicer.util.tryWithErrorDisplay(failure):
                result = function()
        finally:
            self.showResult()
        return result

    def onApplyButton(self):
        parameters = self._parameterNode
        self.replaceSegmentation(
            self.work(
                _("The structures were not found."),
                _("Finding bones, canal, foramina and alae…"),
                lambda progress: self.logic.segment(
                    parameters.ct, parameters.method.value, parameters.labels, progress
                ),
            )
        )

    # What the scene holds

    def showResult(self):
        """Fill the panel from the scene."""
        if not self._parameterNode:
            return
        segmentation = self._parameterNode.segmentation
        self.ui.show3DButton.setSegmentationNode(segmentation)
        self.ui.show3DButton.enabled = segmentation is not None
        self.showStructures(segmentation)
        self.showStatus(segmentation)
        self.showCorrections(segmentation)
        self.showFractures(segmentation)
        self.showMRI(segmentation)
        self.ui.qualityList.clear()
        self.ui.qualityList.addItems(self.logic.qualityTexts() if segmentation else [])

    def showStructures(self, segmentation):
        table = self.ui.structuresTable
        selected = self.selectedStructure()
        self._rows = self.logic.structures(segmentation) if segmentation else []
        edited = self.logic.edited(segmentation) if segmentation else ()
        confirmed, wanted, blocking = self.logic.confirmed(), self.logic.toConfirm(), self.logic.blocking()
        blockingNames = {name for names in blocking.values() for name in names}
        table.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            name = self.logic.readable(row.name)
            if row.name in confirmed:
                state = _("✔ yes")
            elif row.name in wanted:
                state = _("⚠ needed")
            else:
                state = _("✘ cannot") if row.name in blockingNames else ""
            texts = (
                _("{structure} (edited)").format(structure=name) if row.name in edited else name,
                self.confidenceText(row.confidence),
                f"{row.volume_ml:.1f}" if row.volume_ml == row.volume_ml else "–",
                state,
            )
            for column, text in enumerate(texts):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        names = [row.name for row in self._rows]
        if selected in names:
            table.selectRow(names.index(selected))
        self.onStructureSelected()

    def showStatus(self, segmentation):
        """The one line that is read from afar, then what blocks planning, then where the bones come from."""
        wanted, blocking = self.logic.toConfirm(), self.logic.blocking()
        lines = [
            _("{side}: {structures}").format(side=side, structures=", ".join(map(self.logic.readable, names)))
            for side, names in ((_("Left"), blocking["left"]), (_("Right"), blocking["right"]))
            if names
        ]
        if not segmentation:
            self.ui.statusLabel.text = _("Nothing was segmented yet.")
        elif wanted:
            self.ui.statusLabel.text = _("⚠ {count} to confirm").format(count=len(wanted))
        elif lines:
            self.ui.statusLabel.text = _("✘ Planning is blocked")
        else:
            self.ui.statusLabel.text = _("✔ Nothing blocks planning")
        self.ui.blockLabel.visible = bool(segmentation)
        if lines:
            self.ui.blockLabel.text = _("Blocks planning – {structures}").format(structures=". ".join(lines))
        else:
            self.ui.blockLabel.text = _("{count} of {total} structures confirmed. Look at all of them.").format(
                count=len(self.logic.confirmed()), total=len(self._rows)
            )
        self.ui.blockLabel.toolTip = "\n".join(self.logic.blockingReasons())
        self.ui.methodLabel.visible = bool(segmentation)
        self.ui.methodLabel.text = _("Bones by {method}").format(method=self.logic.method())
        self.ui.nextButton.enabled = bool(wanted)

    @staticmethod
    def confidenceText(confidence):
        """A symbol beside the figure, so that the meaning does not hang on a color."""
        if confidence is None:
            return _("? check")
        symbol = "✔" if confidence >= 0.8 else "⚠"
        return f"{symbol} {100 * confidence:.0f} %"

    # Structures

    def selectedStructure(self):
        """Name of the selected structure, or None."""
        row = self.ui.structuresTable.currentRow()
        return self._rows[row].name if 0 <= row < len(self._rows) else None

    def onStructureSelected(self):
        name = self.selectedStructure()
        self.ui.jumpButton.enabled = name is not None
        self.ui.confirmButton.enabled = name is not None and name not in self.logic.confirmed()
        self.ui.withdrawButton.enabled = name in self.logic.confirmed()

    def onJumpButton(self, *unused):
        row = self.ui.structuresTable.currentRow()
        if 0 <= row < len(self._rows):
            self.logic.jumpTo(self._rows[row].center_ras)

    def onConfirmButton(self):
        name = self.selectedStructure()
        self.do(_("This cannot be confirmed."), lambda: self.logic.confirm(name))

    def onWithdrawButton(self):
        name = self.selectedStructure()
        self.do(_("The confirmation was not withdrawn."), lambda: self.logic.withdraw(name))

    def onNextButton(self):
        """Select and show the next structure to confirm after the selected one, in the order of the table."""
        wanted = self.logic.toConfirm()
        numbers = [number for number, row in enumerate(self._rows) if row.name in wanted]
        current = self.ui.structuresTable.currentRow()
        if numbers:
            self.ui.structuresTable.selectRow(next((number for number in numbers if number > current), numbers[0]))
            self.onJumpButton()

    # Corrections

    def showCorrections(self, segmentation):
        edited = self.logic.edited(segmentation) if segmentation else ()
        names = ", ".join(self.logic.readable(name) for name in edited)
        self.ui.editedLabel.text = (
            _("Edited by hand: {structures}").format(structures=names) if edited else _("Nothing was edited by hand.")
        )
        self.ui.editButton.enabled = segmentation is not None
        self.ui.recomputeButton.enabled = segmentation is not None
        self.ui.restoreButton.enabled = self.logic.hasPrevious()
        for button in (
            self.ui.sacrumClickButton,
            self.ui.l5ClickButton,
            self.ui.hipClickButton,
            self.ui.backgroundClickButton,
        ):
            button.enabled = segmentation is not None
        self.onPointsChanged()

    def onPointsChanged(self, caller=None, event=None):
        """Growing and marking wait for enough points."""
        parameters = self._parameterNode
        segmented = parameters.segmentation is not None
        texts = self.logic.clickTexts(parameters.clicks)
        self.ui.clicksLabel.text = ", ".join(texts) if texts else _("No clicks yet.")
        self.ui.growButton.enabled = segmented and len(texts) >= 2
        self.ui.clearClicksButton.enabled = bool(texts)
        curve, plane = parameters.curve, parameters.plane
        self.ui.markCurveButton.enabled = segmented and bool(curve and curve.GetNumberOfDefinedControlPoints() >= 2)
        self.ui.markPlaneButton.enabled = segmented and bool(plane and plane.GetNumberOfDefinedControlPoints() >= 1)

    def onEditButton(self):
        self.logic.prepareSegmentEditor(self._parameterNode.segmentation, self._parameterNode.ct)
        slicer.util.selectModule("SegmentEditor")

    def onRecomputeButton(self):
        parameters = self._parameterNode
        lost = self.logic.lostByRecomputing(parameters.segmentation)
        if lost and not slicer.util.confirmOkCancelDisplay(
            _(
                "These were edited by hand and will be found anew: {structures}.\n"
                "Restore the previous result brings them back."
            ).format(structures=", ".join(self.logic.readable(name) for name in lost))
        ):
            return
        self.replaceSegmentation(
            self.work(
                _("The structures were not found."),
                _("Finding what depends on the bones…"),
                lambda progress: self.logic.recompute(parameters.segmentation, parameters.ct, progress),
            )
        )

    def onRestoreButton(self):
        self.replaceSegmentation(self.do(_("Nothing was restored."), self.logic.restorePrevious))
        # The older result may be of another CT.
        self._parameterNode.ct = self.logic.segmentedCT()[0]

    def replaceSegmentation(self, segmentation):
        if segmentation:
            self._parameterNode.segmentation = segmentation

    def onSacrumClickButton(self):
        self.placeClick("sacrum")

    def onL5ClickButton(self):
        self.placeClick("l5")

    def onHipClickButton(self):
        self.placeClick("hip")

    def onBackgroundClickButton(self):
        self.placeClick("background")

    def placeClick(self, name):
        self._parameterNode.clicks = self.logic.placeClick(self._parameterNode.clicks, name)

    def onGrowButton(self):
        parameters = self._parameterNode
        segmentation = self.work(
            _("The bones were not corrected."),
            _("Growing from the clicks…"),
            lambda progress: self.logic.grow(parameters.ct, parameters.segmentation, parameters.clicks, progress),
        )
        if segmentation:
            self.logic.remove(parameters.clicks)
            parameters.segmentation = segmentation

    def onClearClicksButton(self):
        self.logic.remove(self._parameterNode.clicks)
        self.showResult()

    # Fractures

    def showFractures(self, segmentation):
        self.ui.suggestButton.enabled = segmentation is not None
        self.ui.drawCurveButton.enabled = segmentation is not None
        self.ui.placePlaneButton.enabled = segmentation is not None
        self.ui.suggestionsList.clear()
        self.ui.suggestionsList.addItems([self.suggestionText(one) for one in self.logic.suggestions()])
        self.ui.fracturesList.clear()
        marked = self.logic.fractures(segmentation) if segmentation else []
        self.ui.fracturesList.addItems([self.logic.readable(name) for name in marked])
        self.showClassification(bool(marked))
        self.onSuggestionSelected()
        self.onFractureSelected()

    @staticmethod
    def suggestionText(suggestion):
        from sacroplasty.anatomy.fracture_model import evidence_text

        side = {"left": _("Left"), "right": _("Right"), "central": _("Central")}[suggestion.side]
        direction = {"vertical": _("vertical"), "transverse": _("transverse")}[suggestion.direction]
        signs = "; ".join((*map(evidence_text, suggestion.evidence), *suggestion.notes))
        return _("{score} – {side}, zone {zone}, {direction}: {signs}").format(
            score=f"{suggestion.score:.2f}",
            side=side,
            zone="I" * suggestion.denis_zone,
            direction=direction,
            signs=signs,
        )

    def onSuggestButton(self):
        parameters = self._parameterNode
        found = self.work(
            _("No suggestions were made."),
            _("Looking for fracture lines…"),
            lambda progress: self.logic.suggest(parameters.segmentation, parameters.ct, progress),
        )
        if found is not None and not found:
            self.ui.reasonLabel.text = _("Nothing was suggested. That does not mean that there is no fracture.")

    def onSuggestionSelected(self):
        selected = self.ui.suggestionsList.currentRow >= 0
        for button in (self.ui.suggestionJumpButton, self.ui.acceptButton, self.ui.dismissButton):
            button.enabled = selected

    def onSuggestionJumpButton(self, *unused):
        index = self.ui.suggestionsList.currentRow
        known = self.logic.suggestions()
        if 0 <= index < len(known):
            self.logic.jumpTo(known[index].center_ras)

    def onAcceptButton(self):
        parameters, index = self._parameterNode, self.ui.suggestionsList.currentRow
        self.do(
            _("The fracture was not marked."),
            lambda: self.logic.acceptSuggestion(parameters.segmentation, parameters.ct, index),
        )

    def onDismissButton(self):
        index = self.ui.suggestionsList.currentRow
        self.do(_("The suggestion was not dropped."), lambda: self.logic.dismissSuggestion(index))

    def onDrawCurveButton(self):
        self._parameterNode.curve = self.logic.placeCurve(self._parameterNode.curve)

    def onPlacePlaneButton(self):
        self._parameterNode.plane = self.logic.placePlane(self._parameterNode.plane)

    def onMarkCurveButton(self):
        self.mark(self.logic.markCurve, self._parameterNode.curve)

    def onMarkPlaneButton(self):
        self.mark(self.logic.markPlane, self._parameterNode.plane)

    def mark(self, function, node):
        """Mark by a curve or a plane, which then has done its work."""
        parameters = self._parameterNode
        if self.do(_("The fracture was not marked."), lambda: function(parameters.segmentation, parameters.ct, node)):
            self.logic.remove(node)
            self.showResult()

    def onFractureSelected(self):
        self.ui.removeFractureButton.enabled = self.ui.fracturesList.currentRow >= 0

    def onRemoveFractureButton(self):
        parameters = self._parameterNode
        name = self.logic.fractures(parameters.segmentation)[self.ui.fracturesList.currentRow]
        self.do(
            _("The fracture was not removed."),
            lambda: self.logic.removeFracture(parameters.segmentation, parameters.ct, name),
        )

    def showClassification(self, marked):
        classification = self.logic.classification()
        table = self.ui.classificationTable
        table.setRowCount(len(self.fields()))
        for number, (field, name) in enumerate(self.fields()):
            judged = getattr(classification, field)
            confirmed = "" if judged.confirmed is None else f"✔ {self.valueText(judged.confirmed)}"
            for column, text in enumerate((name, self.valueText(judged.proposed), confirmed)):
                table.setItem(number, column, qt.QTableWidgetItem(text))
        self.ui.ringComboBox.enabled = marked
        self.ui.ringComboBox.currentIndex = (None, "no", "yes").index(classification.anterior_ring)
        self.onFieldSelected()

    @staticmethod
    def fields():
        """The names of a fracture, with what a person reads."""
        return (
            ("denis_zone", _("Denis zone")),
            ("pattern", _("Pattern")),
            ("displacement_mm", _("Displacement (mm)")),
            ("roy_camille", _("Roy-Camille")),
            ("ffp", _("FFP (Rommens)")),
        )

    @staticmethod
    def valueText(value):
        if value is None:
            return "–"
        return f"{value:.1f}" if isinstance(value, float) else str(value)

    def onFieldSelected(self):
        """Offer the values of the selected name, the proposed one first chosen."""
        row = self.ui.classificationTable.currentRow()
        marked = self.ui.fracturesList.count > 0
        selected = marked and 0 <= row < len(self.fields())
        self.ui.valueComboBox.clear()
        self.ui.valueComboBox.enabled = selected
        self.ui.confirmFieldButton.enabled = selected
        self.ui.withdrawFieldButton.enabled = False
        self.ui.reasonLabel.text = ""
        if not selected:
            return
        field = self.fields()[row][0]
        judged = getattr(self.logic.classification(), field)
        choices = self.logic.choices(field)
        self.ui.valueComboBox.editable = not choices
        self.ui.valueComboBox.addItems(choices or [self.valueText(judged.proposed)])
        shown = judged.confirmed if judged.confirmed is not None else judged.proposed
        if shown is not None:
            self.ui.valueComboBox.setCurrentText(self.valueText(shown))
        self.ui.withdrawFieldButton.enabled = judged.confirmed is not None
        self.ui.reasonLabel.text = judged.reason

    def onConfirmFieldButton(self):
        field = self.fields()[self.ui.classificationTable.currentRow()][0]
        text = self.ui.valueComboBox.currentText
        self.do(_("The value was not confirmed."), lambda: self.logic.confirmField(field, text))

    def onWithdrawFieldButton(self):
        field = self.fields()[self.ui.classificationTable.currentRow()][0]
        self.do(_("The value was not withdrawn."), lambda: self.logic.confirmField(field, None))

    def onRingAnswered(self, index):
        self.do(_("The answer was not kept."), lambda: self.logic.setAnteriorRing((None, "no", "yes")[index]))

    # MRI

    def showMRI(self, segmentation):
        parameters = self._parameterNode
        registration = self.logic.mriRegistration()
        ready = parameters.ct is not None and parameters.mri is not None and parameters.mri is not parameters.ct
        self.ui.registerButton.enabled = ready
        self.ui.oedemaButton.enabled = ready and segmentation is not None and registration is not None
        self.ui.removeMRIButton.enabled = registration is not None
        self.ui.opacitySlider.enabled = registration is not None
        if registration is None:
            self.ui.mriLabel.text = _("No MRI lies on the CT.")
        else:
            text = _("✔ The MRI was moved by {distance} mm and {angle}°. Look at the edges of the bones.").format(
                distance=f"{registration.moved_mm:.1f}", angle=f"{registration.turned_deg:.1f}"
            )
            self.ui.mriLabel.text = "\n".join((text, *(f"⚠ {warning}" for warning in registration.warnings)))

    def onRegisterButton(self):
        parameters = self._parameterNode
        found = self.work(
            _("The MRI was not laid on the CT."),
            _("Laying the MRI on the CT…"),
            lambda progress: self.logic.registerMRI(parameters.ct, parameters.mri, parameters.segmentation, progress),
        )
        if found is not None:
            self.logic.showMRI(parameters.mri, parameters.mriOpacity)

    def onOpacityChanged(self, opacity):
        if self._parameterNode and self._parameterNode.mri and self.logic.mriRegistration() is not None:
            self.logic.showMRI(self._parameterNode.mri, opacity)

    def onOedemaButton(self):
        parameters = self._parameterNode
        self.work(
            _("No oedema was outlined."),
            _("Looking for oedema…"),
            lambda progress: self.logic.showOedema(parameters.ct, parameters.mri, parameters.segmentation),
        )

    def onRemoveMRIButton(self):
        self.do(_("The MRI was not removed."), self.logic.removeMRI)


#
# SacroplastySegmentationLogic
#


class SacroplastySegmentationLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene; usable without the widget."""

    def getParameterNode(self):
        return SacroplastySegmentationParameterNode(super().getParameterNode())

    # Segmenting

    def segment(self, ct, method="auto", labels=None, progress=None):
        """Segmentation node with the structures found in a CT.

        :param ct: scalar volume node in Hounsfield units.
        :param method: auto, atlas, totalsegmentator or labels.
        :param labels: label map volume or segmentation node with the bones, for the method labels.
        :param progress: called with 0 to 1.
        """
        from sacroplasty.scene import bones

        return self.withItsSuggestions(bones.segment_by(slicer.mrmlScene, ct, method, labels, progress))

    def segmentedCT(self):
        """CT and segmentation that the scene goes on with; either may be None."""
        from sacroplasty.scene import anatomy

        return anatomy.segmented_ct(slicer.mrmlScene)

    def method(self):
        from sacroplasty.scene import anatomy

        return anatomy.method_of(slicer.mrmlScene)

    def structures(self, segmentation):
        from sacroplasty.scene import anatomy

        return anatomy.structure_rows(slicer.mrmlScene, segmentation)

    def qualityTexts(self):
        """What a person must check and may want to know, a line each."""
        from sacroplasty.scene import anatomy

        return anatomy.quality_texts(slicer.mrmlScene)

    def readable(self, name):
        from sacroplasty.scene import anatomy

        return anatomy.readable(name)

    def jumpTo(self, position):
        from sacroplasty.scene import anatomy

        anatomy.jump_to(slicer.mrmlScene, position)

    def withItsSuggestions(self, segmentation):
        """The new result, with the models of its own suggestions in place of those of the older one."""
        from sacroplasty.scene import fracture

        fracture.show_suggestions(slicer.mrmlScene)
        return segmentation

    # Confirming

    def confirmed(self):
        from sacroplasty.scene import anatomy

        return anatomy.confirmed_structures(slicer.mrmlScene)

    def toConfirm(self):
        from sacroplasty.scene import anatomy

        return anatomy.structures_to_confirm(slicer.mrmlScene, ("left", "right"))

    def blockingReasons(self):
        """Sentences on what blocks planning of either side, each once."""
        from sacroplasty.scene import anatomy

        found = [reason for side in ("left", "right") for reason in anatomy.blocking_reasons_of(slicer.mrmlScene, side)]
        return list(dict.fromkeys(found))

    def blocking(self):
        """Names of the structures that block planning, by side."""
        from sacroplasty.scene import anatomy

        return {
            side: [reason.partition(":")[0] for reason in anatomy.blocking_reasons_of(slicer.mrmlScene, side)]
            for side in ("left", "right")
        }

    def confirm(self, name):
        from sacroplasty.scene import anatomy

        anatomy.confirm_structure(slicer.mrmlScene, name)

    def withdraw(self, name):
        from sacroplasty.scene import anatomy

        anatomy.withdraw_confirmation(slicer.mrmlScene, name)

    # Correcting

    def edited(self, segmentation):
        from sacroplasty.scene import anatomy

        return anatomy.edited_structures(slicer.mrmlScene, segmentation)

    def lostByRecomputing(self, segmentation):
        """Structures edited by hand that are no bones: recomputing finds them anew."""
        from sacroplasty.anatomy.labels import BONE_LABEL

        return [name for name in self.edited(segmentation) if name not in BONE_LABEL]

    def prepareSegmentEditor(self, segmentation, ct):
        from sacroplasty.scene import bones

        bones.prepare_segment_editor(slicer.mrmlScene, segmentation, ct)

    def recompute(self, segmentation, ct, progress=None):
        from sacroplasty.scene import bones

        return self.withItsSuggestions(bones.recompute(slicer.mrmlScene, segmentation, ct, progress))

    def hasPrevious(self):
        from sacroplasty.scene import anatomy

        return anatomy.has_previous(slicer.mrmlScene)

    def restorePrevious(self):
        from sacroplasty.scene import anatomy

        return self.withItsSuggestions(anatomy.restore_previous(slicer.mrmlScene))

    def placeClick(self, clicks, name):
        """Let the next click into a view place a point of this name; gives the list of points, made when missing."""
        clicks = clicks or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", _("Corrections"))
        clicks.SetControlPointLabelFormat(f"{name}-%d")
        self.place(clicks, False)
        return clicks

    def clickTexts(self, clicks):
        """Names of the points that were placed."""
        if not clicks:
            return []
        defined = slicer.vtkMRMLMarkupsNode.PositionDefined
        numbers = range(clicks.GetNumberOfControlPoints())
        return [
            clicks.GetNthControlPointLabel(number)
            for number in numbers
            if clicks.GetNthControlPointPositionStatus(number) == defined
        ]

    def grow(self, ct, segmentation, clicks, progress=None):
        from sacroplasty.scene import seeds

        return self.withItsSuggestions(seeds.correct_bones(slicer.mrmlScene, ct, segmentation, clicks, progress))

    def place(self, node, persistent):
        """Start placing points of a markups node in the views."""
        markups = slicer.modules.markups.logic()
        markups.SetActiveList(node)
        markups.StartPlaceMode(persistent)

    def stopPlacing(self):
        """Clicks into views no longer place points."""
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interaction:
            interaction.SwitchToViewTransformMode()

    def remove(self, node):
        """Take away points that have done their work, and place no more of them."""
        self.stopPlacing()
        if node:
            slicer.mrmlScene.RemoveNode(node)

    # Fractures

    def suggestionNotice(self):
        from sacroplasty.anatomy.fracture_model import SUGGESTION_NOTICE

        return SUGGESTION_NOTICE

    def suggest(self, segmentation, ct, progress=None):
        from sacroplasty.scene import fracture

        return fracture.suggest(slicer.mrmlScene, segmentation, ct, progress)

    def suggestions(self):
        from sacroplasty.scene import fracture

        return fracture.suggestions(slicer.mrmlScene)

    def acceptSuggestion(self, segmentation, ct, index):
        from sacroplasty.scene import fracture

        return fracture.accept_suggestion(slicer.mrmlScene, segmentation, ct, index)

    def dismissSuggestion(self, index):
        from sacroplasty.scene import fracture

        fracture.dismiss_suggestion(slicer.mrmlScene, index)

    def placeCurve(self, curve):
        """Let clicks into a view draw a curve, anew when one was drawn."""
        self.remove(curve)
        curve = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", _("Fracture line"))
        self.place(curve, True)
        return curve

    def placePlane(self, plane):
        """Let a click into a view place a plane, anew when one was placed; it can be turned by its handles."""
        self.remove(plane)
        plane = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", _("Fracture plane"))
        plane.SetSizeMode(plane.SizeModeAbsolute)
        plane.SetSize(PLANE_MM, PLANE_MM)
        plane.CreateDefaultDisplayNodes()
        plane.GetDisplayNode().SetHandlesInteractive(True)
        self.place(plane, False)
        return plane

    def markCurve(self, segmentation, ct, curve):
        from sacroplasty.scene import fracture

        return fracture.mark_curve(slicer.mrmlScene, segmentation, ct, curve)

    def markPlane(self, segmentation, ct, plane):
        from sacroplasty.scene import fracture

        return fracture.mark_plane(slicer.mrmlScene, segmentation, ct, plane)

    def fractures(self, segmentation):
        """Names of the marked fractures."""
        from sacroplasty.scene import anatomy, nodes

        return anatomy.fracture_segments(nodes.segment_names(segmentation))

    def removeFracture(self, segmentation, ct, name):
        from sacroplasty.scene import fracture

        fracture.remove_fracture(slicer.mrmlScene, segmentation, ct, name)

    def classification(self):
        from sacroplasty.scene import fracture

        return fracture.classification(slicer.mrmlScene)

    def choices(self, field):
        """Values that a name can have; empty for a measure."""
        from sacroplasty.anatomy.fracture_classification import CHOICES

        return list(CHOICES.get(field, ()))

    def confirmField(self, field, text):
        """Record a person's word on one name; None takes it back.

        :raises AnatomyError: for a value that it cannot have.
        """
        from sacroplasty.errors import AnatomyError
        from sacroplasty.scene import fracture

        value = text
        if text is not None and not self.choices(field):
            try:
                value = float(text)
            except ValueError as error:
                raise AnatomyError(f"{text!r} is no number; give millimetres") from error
        fracture.confirm_field(slicer.mrmlScene, field, value)

    def setAnteriorRing(self, broken):
        from sacroplasty.scene import fracture

        fracture.set_anterior_ring(slicer.mrmlScene, broken)

    # MRI

    def registerMRI(self, ct, mri, segmentation=None, progress=None):
        from sacroplasty.scene import mri as sceneMRI

        return sceneMRI.register(slicer.mrmlScene, ct, mri, segmentation, progress=progress)

    def mriRegistration(self):
        from sacroplasty.scene import mri as sceneMRI

        return sceneMRI.registration_of(slicer.mrmlScene)

    def showMRI(self, mri, opacity):
        from sacroplasty.scene import mri as sceneMRI

        sceneMRI.show_overlay(slicer.mrmlScene, mri, opacity)

    def showOedema(self, ct, mri, segmentation):
        from sacroplasty.scene import mri as sceneMRI

        return sceneMRI.show_oedema(slicer.mrmlScene, ct, mri, segmentation)

    def removeMRI(self):
        from sacroplasty.scene import mri as sceneMRI

        sceneMRI.remove(slicer.mrmlScene)


#
# SacroplastySegmentationTest
#


class SacroplastySegmentationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_LabelsWithoutASacrumAreRefused()
        self.setUp()
        self.test_WhatAPersonChangesMustBeConfirmedAgain()

    def test_LabelsWithoutASacrumAreRefused(self):
        """Labels of something else are refused in plain words, and the scene is left without a result."""
        import numpy as np

        from sacroplasty.errors import AnatomyError
        from sacroplasty.image import Volume
        from sacroplasty.scene import nodes

        self.delayDisplay(_("Segmenting a block of water"))
        hounsfield = np.full((60, 60, 60), -1000, np.int16)
        hounsfield[10:50, 10:50, 10:50] = 0
        hounsfield[20:40, 20:40, 20:40] = 500
        volume = Volume(hounsfield, np.diag([2.0, 2.0, 2.0, 1.0]))
        ct = nodes.add_volume(slicer.mrmlScene, volume, "CT")
        labels = nodes.add_label_volume(slicer.mrmlScene, volume.like((hounsfield > 400).astype(np.uint8) * 27), "L5")
        logic = SacroplastySegmentationLogic()
        with self.assertRaisesRegex(AnatomyError, "sacrum"):
            logic.segment(ct, "labels", labels)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.delayDisplay(_("Test passed"))

    def test_WhatAPersonChangesMustBeConfirmedAgain(self):
        """From labels of a synthetic patient to a confirmed structure, which then is removed."""
        from sacroplasty.phantom import make_phantom
        from sacroplasty.scene import nodes

        self.delayDisplay(_("Segmenting a synthetic patient"))
        phantom = make_phantom(seed=1, spacing_mm=(5.0, 5.0, 5.0))
        ct = nodes.add_volume(slicer.mrmlScene, phantom.ct, "CT")
        labels = nodes.add_label_volume(slicer.mrmlScene, phantom.bones, "Bones")
        logic = SacroplastySegmentationLogic()
        segmentation = logic.segment(ct, "labels", labels)
        self.assertIn("sacral_canal", [row.name for row in logic.structures(segmentation)])
        self.assertEqual(logic.edited(segmentation), ())
        logic.confirm("sacral_canal")
        self.assertIn("sacral_canal", logic.confirmed())
        segmentation.GetSegmentation().RemoveSegment("sacral_canal")
        self.assertEqual(logic.lostByRecomputing(segmentation), ["sacral_canal"])
        self.assertNotIn("sacral_canal", logic.confirmed())
        self.delayDisplay(_("Test passed"))
