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

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# Sacroplasty
#


class Sacroplasty(ScriptedLoadableModule):
    """The steps of a sacroplasty in order, each with its state and the module that does it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Guides through an image-guided percutaneous sacroplasty, from the indication to the follow-up visit, and "
            "opens the module for each step. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")
        slicer.app.connect("startupCompleted()", registerSampleData)


#
# Sample data
#

SAMPLE_CT = "SacroplastySampleCT"
SAMPLE_BONES = "SacroplastySampleBones"

# The reference case of TotalSegmentator (Apache-2.0), at a fixed revision.
SAMPLE_FOLDER = (
    "https://raw.githubusercontent.com/wasserth/TotalSegmentator/0e65a448d557382b1e925276212b3bec7f5aff83/"
    "tests/reference_files/"
)


def registerSampleData():
    """Add the sample patient to the Sample Data module. Nothing is downloaded before somebody asks for it."""
    import SampleData

    thumbnail = os.path.join(os.path.dirname(__file__), "Resources", "Icons", "Sacroplasty.png")
    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory("Sacroplasty", title=_("Sacroplasty"))
    logic.registerCustomSampleDataSource(
        category="Sacroplasty",
        sampleName=SAMPLE_CT,
        thumbnailFileName=thumbnail,
        uris=SAMPLE_FOLDER + "example_ct.nii.gz",
        fileNames="SacroplastySampleCT.nii.gz",
        nodeNames="Sample CT",
        checksums="SHA256:dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
    )
    logic.registerCustomSampleDataSource(
        category="Sacroplasty",
        sampleName=SAMPLE_BONES,
        thumbnailFileName=thumbnail,
        uris=SAMPLE_FOLDER + "example_seg_fast_force_split.nii.gz",
        fileNames="SacroplastySampleBones.nii.gz",
        nodeNames="Sample bone labels",
        loadFileProperties={"labelmap": True},
        checksums="SHA256:e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7",
    )


#
# SacroplastyParameterNode
#


@parameterNodeWrapper
class SacroplastyParameterNode:
    """
    caseName - What the case is called in the report. No name of a person.
    hideDone - Whether steps that are done are left out of the list.
    """

    caseName: str
    hideDone: bool = False


#
# SacroplastyWidget
#

# Symbol and color together, so that the state is also seen by the color-blind.
STATE_STYLES = {
    "to do": ("\u25cb", "color: gray;"),
    "ready": ("\u25b6", "color: #1e88e5; font-weight: bold;"),
    "done": ("\u2714", "color: #2e8b57;"),
    "blocked": ("\u2716", "color: #e53935; font-weight: bold;"),
}


class SacroplastyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    # Scene changes come in hundreds while a case is loaded; the list is brought up to date once after them.
    REFRESH_DELAY_MS = 100

    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._rows = {}
        self._refreshTimer = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/Sacroplasty.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyLogic()

        self._refreshTimer = qt.QTimer()
        self._refreshTimer.setSingleShot(True)
        self._refreshTimer.setInterval(self.REFRESH_DELAY_MS)
        self._refreshTimer.connect("timeout()", self.refresh)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneChanged)

        self._buildSteps()
        self.ui.sampleButton.connect("clicked(bool)", self.onSampleButton)
        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self._refreshTimer.stop()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.refresh()

    def exit(self):
        """Called each time the user opens a different module."""
        self._refreshTimer.stop()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()
            self.refresh()

    def onSceneChanged(self, caller, event):
        """Called for each node that comes or goes."""
        if self.parent.isEntered:
            self._refreshTimer.start()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists and is observed."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        """Show and observe this parameter node, and no other one."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)

    def onParametersChanged(self, caller, event):
        self._refreshTimer.start()

    def onSampleButton(self):
        with slicer.util.tryWithErrorDisplay(_("The sample patient could not be loaded."), waitCursor=True):
            self.logic.loadSamplePatient()

    def onStepButton(self, moduleName):
        with slicer.util.tryWithErrorDisplay(_("The module could not be opened.")):
            slicer.util.selectModule(moduleName)

    def refresh(self):
        """Show the state of every step as the scene has it now."""
        self.logic.showCTInEmptyViews()
        hideDone = bool(self._parameterNode) and self._parameterNode.hideDone
        for step in self.logic.steps():
            symbol, title, explanation, button = self._rows[step.key]
            text, style = STATE_STYLES[step.state]
            symbol.text = text
            symbol.styleSheet = style
            symbol.toolTip = self._stateNames()[step.state]
            explanation.text = (
                f"{self._stateNames()[step.state]}: {step.reason}" if step.reason else (self._stateNames()[step.state])
            )
            explanation.styleSheet = style
            button.toolTip = _("Open the module {name}").format(name=step.module)
            for shown in (symbol, title, explanation, button):
                shown.visible = not (hideDone and step.state == "done")

    def _buildSteps(self):
        grid = self.ui.stepsWidget.layout()
        titles = self._stepTitles()
        for row, step in enumerate(self.logic.steps()):
            symbol = qt.QLabel()
            symbol.setAlignment(qt.Qt.AlignCenter)
            title = qt.QLabel(f"<b>{row + 1}. {titles[step.key]}</b>")
            explanation = qt.QLabel()
            explanation.wordWrap = True
            button = qt.QPushButton(_("Open"))
            button.objectName = f"{step.key}Button"
            button.connect("clicked(bool)", lambda checked=False, module=step.module: self.onStepButton(module))
            grid.addWidget(symbol, 2 * row, 0, 2, 1)
            grid.addWidget(title, 2 * row, 1)
            grid.addWidget(explanation, 2 * row + 1, 1)
            grid.addWidget(button, 2 * row, 2, 2, 1)
            self._rows[step.key] = (symbol, title, explanation, button)
        grid.setColumnStretch(1, 1)

    @staticmethod
    def _stateNames():
        return {"to do": _("To do"), "ready": _("Ready"), "done": _("Done"), "blocked": _("Blocked")}

    @staticmethod
    def _stepTitles():
        return {
            "indication": _("Indication"),
            "imaging": _("Imaging and segmentation"),
            "plan": _("Plan"),
            "position": _("Position and C-arm views"),
            "registration": _("Registration"),
            "trocar": _("Trocar"),
            "cement": _("Cement preparation"),
            "injection": _("Injection"),
            "withdrawal": _("Withdrawal"),
            "verification": _("Verification"),
            "follow_up": _("Follow-up"),
        }


#
# SacroplastyLogic
#


class SacroplastyLogic(ScriptedLoadableModuleLogic):
    """What the home module does, usable without its widget."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)

    def getParameterNode(self):
        return SacroplastyParameterNode(super().getParameterNode())

    def steps(self):
        """The steps of the procedure with their state, read from the scene."""
        from sacroplasty.scene.workflow import workflow_steps

        return workflow_steps(slicer.mrmlScene)

    def showCTInEmptyViews(self):
        """Bring the CT of the case into slice views that show nothing, as after a saved case was opened."""
        from sacroplasty.scene.anatomy import segmented_ct

        views = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
        ct = segmented_ct(slicer.mrmlScene)[0]
        if ct and views and slicer.app.layoutManager() and not views.GetBackgroundVolumeID():
            slicer.util.setSliceViewerLayers(background=ct, fit=True)
            slicer.util.resetThreeDViews()

    def loadSamplePatient(self):
        """Download (once) and load the sample CT and the labels of its bones."""
        import SampleData

        return SampleData.downloadSample(SAMPLE_CT), SampleData.downloadSample(SAMPLE_BONES)


#
# SacroplastyTest
#


class SacroplastyTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_EmptySceneStartsAtTheBeginning()
        self.setUp()
        self.test_LoadedCTIsNotASegmentation()

    def test_EmptySceneStartsAtTheBeginning(self):
        self.delayDisplay("An empty scene has nothing done")
        states = {step.key: step.state for step in SacroplastyLogic().steps()}
        self.assertEqual(len(states), 11)
        self.assertEqual(states["indication"], "ready")
        self.assertNotIn("done", states.values())

    def test_LoadedCTIsNotASegmentation(self):
        self.delayDisplay("A CT alone does not finish the imaging step")
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        states = {step.key: step.state for step in SacroplastyLogic().steps()}
        self.assertEqual(states["imaging"], "ready")
        self.assertEqual(states["plan"], "to do")
