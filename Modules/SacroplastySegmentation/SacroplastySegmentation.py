import importlib.util
import os
import sys

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
from slicer import vtkMRMLDisplayableNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastySegmentation
#


class SacroplastySegmentation(ScriptedLoadableModule):
    """Canal, foramina, alae and landmarks of the sacrum, from a CT and its labelled bones."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Finds the sacral canal, the foramina, the alae and the landmarks of the sacrum in a CT whose bones "
            "are labelled. Research software, not a medical device: a person must check every structure."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


class Canceled(Exception):
    """The person pressed Cancel in the progress dialog."""


#
# SacroplastySegmentationParameterNode
#


@parameterNodeWrapper
class SacroplastySegmentationParameterNode:
    """
    ct - The CT of the pelvis.
    labels - Label map or segmentation of the bones.
    segmentation - The result.
    """

    ct: vtkMRMLScalarVolumeNode
    labels: vtkMRMLDisplayableNode
    segmentation: vtkMRMLSegmentationNode


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

        header = self.ui.structuresTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        # Either of two node classes: more than a parameter can be tied to, so it is tied by hand.
        self.ui.labelsSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onLabelsSelected)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.jumpButton.connect("clicked(bool)", self.onJumpButton)
        self.ui.structuresTable.connect("itemSelectionChanged()", self.onStructureSelected)
        self.ui.structuresTable.connect("cellDoubleClicked(int,int)", self.onJumpButton)

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
        """Ensure that the parameter node exists, is observed and names a CT if there is one."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.ct:
            self._parameterNode.ct = self.logic.firstCT()

    def setParameterNode(self, inputParameterNode):
        """Set and observe the parameter node; None to let go of it."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def onLabelsSelected(self, node):
        if self._parameterNode and self._parameterNode.labels is not node:
            self._parameterNode.labels = node

    def onParametersModified(self, caller=None, event=None):
        self.ui.labelsSelector.setCurrentNode(self._parameterNode.labels)
        ready = self._parameterNode.ct is not None and self._parameterNode.labels is not None
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = (
            _("Find canal, foramina, alae and landmarks.") if ready else _("Select a CT and its labelled bones.")
        )
        self.showResult()

    def onApplyButton(self):
        """Segment, with the progress shown in a dialog that can cancel it."""
        self.ui.applyButton.enabled = False
        try:
            with slicer.util.tryWithErrorDisplay(_("The structures were not found.")):
                canceled = not self.segmentWithProgress()
        finally:
            self.onParametersModified()
        if canceled:
            self.ui.statusLabel.text = _("Canceled.")

    def segmentWithProgress(self):
        """False when it was canceled; then the older result stays."""
        parameters = self._parameterNode
        dialog = slicer.util.createProgressDialog(
            labelText=_("Finding canal, foramina and alae…"),
            windowTitle=_("Sacroplasty Segmentation"),
            windowModality=qt.Qt.WindowModal,
        )
        try:
            parameters.segmentation = self.logic.segment(
                parameters.ct, parameters.labels, lambda fraction: self.showProgress(dialog, fraction)
            )
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

    def showResult(self):
        """Fill the table of structures and the list of warnings from the scene."""
        segmentation = self._parameterNode.segmentation
        self.ui.show3DButton.setSegmentationNode(segmentation)
        self.ui.show3DButton.enabled = segmentation is not None
        self._rows = self.logic.structures(segmentation) if segmentation else []
        table = self.ui.structuresTable
        table.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            table.setItem(number, 0, qt.QTableWidgetItem(self.logic.readable(row.name)))
            table.setItem(number, 1, qt.QTableWidgetItem(self.confidenceText(row.confidence)))
            table.setItem(number, 2, qt.QTableWidgetItem(f"{row.volume_ml:.1f}"))
        warnings = self.logic.warnings() if segmentation else []
        self.ui.warningsList.clear()
        self.ui.warningsList.addItems(list(warnings))
        self.ui.warningsCollapsibleButton.visible = bool(warnings)
        if not segmentation:
            self.ui.statusLabel.text = _("Nothing was segmented yet.")
        elif warnings:
            self.ui.statusLabel.text = _("⚠ {count} structures, {warnings} points to check below.").format(
                count=len(self._rows), warnings=len(warnings)
            )
        else:
            self.ui.statusLabel.text = _("✔ {count} structures. Check each of them.").format(count=len(self._rows))
        self.onStructureSelected()

    @staticmethod
    def confidenceText(confidence):
        """A symbol beside the figure, so that the meaning does not hang on a color."""
        if confidence is None:
            return _("? check")
        symbol = "✔" if confidence >= 0.8 else "⚠"
        return f"{symbol} {100 * confidence:.0f} %"

    def onStructureSelected(self):
        self.ui.jumpButton.enabled = 0 <= self.ui.structuresTable.currentRow() < len(self._rows)

    def onJumpButton(self, *unused):
        row = self.ui.structuresTable.currentRow()
        if 0 <= row < len(self._rows):
            self.logic.jumpTo(self._rows[row])


#
# SacroplastySegmentationLogic
#


class SacroplastySegmentationLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene.anatomy; usable without the widget."""

    def getParameterNode(self):
        return SacroplastySegmentationParameterNode(super().getParameterNode())

    def segment(self, ct, labels, progress=None):
        """Segmentation node with the structures found in labelled bones.

        :param ct: scalar volume node in Hounsfield units.
        :param labels: label map volume or segmentation node with the bones.
        :param progress: called with 0 to 1.
        """
        from sacroplasty.scene import anatomy

        return anatomy.segment(slicer.mrmlScene, ct, labels, progress)

    def firstCT(self):
        """The first volume of the scene that can be a CT, or None."""
        from sacroplasty.scene import nodes

        return next(iter(nodes.volumes_in(slicer.mrmlScene)), None)

    def structures(self, segmentation):
        from sacroplasty.scene import anatomy

        return anatomy.structure_rows(slicer.mrmlScene, segmentation)

    def warnings(self):
        from sacroplasty.scene import anatomy

        return anatomy.warnings_of(slicer.mrmlScene)

    def readable(self, name):
        from sacroplasty.scene import anatomy

        return anatomy.readable(name)

    def jumpTo(self, structure):
        from sacroplasty.scene import anatomy

        anatomy.jump_to(slicer.mrmlScene, structure.center_ras)


#
# SacroplastySegmentationTest
#


class SacroplastySegmentationTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_LabelsWithoutASacrumAreRefused()

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
            logic.segment(ct, labels)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.delayDisplay(_("Test passed"))
