import importlib.util
import os
import sys
from typing import Annotated

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
from slicer import vtkMRMLMarkupsLineNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastyFluoroscopy
#


class SacroplastyFluoroscopy(ScriptedLoadableModule):
    """C-arm views of this patient as simulated X-rays, with the plan drawn over them."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Fluoroscopy")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Computes the C-arm views of this patient (AP, outlet, inlet, lateral, oblique, down the barrel) and "
            "simulates the X-ray of each from the CT. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


#
# SacroplastyFluoroscopyParameterNode
#


@parameterNodeWrapper
class SacroplastyFluoroscopyParameterNode:
    """
    ct, segmentation - The patient.
    trajectory - The planned line to look along.
    after - CT after the procedure.
    sourceToDetectorMm, sourceToIsocenterMm, pixels - The C-arm.
    showPlan, showStructures - What is drawn over the X-ray.
    """

    ct: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    trajectory: vtkMRMLMarkupsLineNode
    after: vtkMRMLScalarVolumeNode
    sourceToDetectorMm: Annotated[float, WithinRange(600.0, 1500.0)] = 1020.0
    sourceToIsocenterMm: Annotated[float, WithinRange(300.0, 1200.0)] = 620.0
    pixels: Annotated[int, WithinRange(64, 1024)] = 384
    showPlan: bool = True
    showStructures: bool = True


#
# SacroplastyFluoroscopyWidget
#


class SacroplastyFluoroscopyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._viewButtons = {}

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyFluoroscopy.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyFluoroscopyLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        self._viewButtons = {
            "ap": self.ui.apButton,
            "outlet": self.ui.outletButton,
            "inlet": self.ui.inletButton,
            "lateral": self.ui.lateralButton,
            "oblique-left": self.ui.obliqueLeftButton,
            "oblique-right": self.ui.obliqueRightButton,
        }
        for view, button in self._viewButtons.items():
            button.connect("clicked(bool)", lambda checked=False, view=view: self.onViewButton(view))
        self.ui.barrelButton.connect("clicked(bool)", self.onBarrelButton)
        self.ui.showCTButton.connect("clicked(bool)", self.onShowCTButton)
        self.ui.acceptButton.connect("clicked(bool)", self.onAcceptButton)
        self.ui.verifyButton.connect("clicked(bool)", self.onVerifyButton)

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
        """Ensure that the parameter node exists and is observed."""
        self.setParameterNode(self.logic.getParameterNode())
        ct, segmentation = self.logic.segmentedCT()
        if not self._parameterNode.segmentation:
            self._parameterNode.segmentation = segmentation
        if not self._parameterNode.ct:
            self._parameterNode.ct = ct

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

    def onParametersModified(self, caller=None, event=None):
        ready = self._parameterNode.ct is not None
        for button in self._viewButtons.values():
            button.enabled = ready
        self.ui.barrelButton.enabled = ready and self._parameterNode.trajectory is not None
        self.ui.showCTButton.enabled = ready
        self.ui.acceptButton.enabled = ready
        parameters = self._parameterNode
        known = parameters.segmentation is not None and parameters.after not in (None, parameters.ct)
        self.ui.verifyButton.enabled = ready and known
        self.showVerification()

    def onViewButton(self, view):
        parameters = self._parameterNode
        self.takeView(lambda cArm: self.logic.viewGeometry(view, parameters.ct, cArm), view)

    def onBarrelButton(self):
        self.takeView(lambda cArm: self.logic.barrelGeometry(self._parameterNode.trajectory, cArm))

    def takeView(self, geometryFor, name=""):
        """Simulate the X-ray of one view; a refusal is said in the panel, not in a dialog."""
        from sacroplasty.errors import SacroplastyError

        parameters = self._parameterNode
        self.ui.progressBar.visible = True
        try:
            geometry = geometryFor(self.logic.cArm(parameters.sourceToDetectorMm, parameters.sourceToIsocenterMm))
            self.logic.simulate(
                parameters.ct,
                geometry,
                parameters.pixels,
                parameters.segmentation if parameters.showStructures else None,
                parameters.showPlan,
                self.showProgress,
                name,
            )
            self.ui.statusLabel.text = _("✔ Detector at {angles} (from straight in front of the patient).").format(
                angles=self.logic.anglesText(geometry)
            )
        except SacroplastyError as error:
            self.ui.statusLabel.text = f"✘ {error}"
        finally:
            self.ui.progressBar.visible = False

    def showProgress(self, fraction):
        self.ui.progressBar.value = round(100 * fraction)
        self.ui.progressBar.repaint()

    def onShowCTButton(self):
        self.logic.showCT(self._parameterNode.ct)

    def onAcceptButton(self):
        """A person finds the views right; what was not looked at is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        try:
            self.ui.statusLabel.text = _("✔ Recorded: {views}").format(views=self.logic.acceptPosition())
        except SacroplastyError as error:
            self.ui.statusLabel.text = f"✘ {error}"

    def onVerifyButton(self):
        """Measure the cement, which takes a moment; a refusal is said in the panel."""
        from sacroplasty.errors import SacroplastyError

        parameters = self._parameterNode
        try:
            with slicer.util.WaitCursor():
                self.logic.verify(parameters.segmentation, parameters.ct, parameters.after)
            self.showVerification()
        except SacroplastyError as error:
            self.ui.verificationLabel.text = f"✘ {error}"

    def showVerification(self):
        """Where the cement is, largest part first."""
        lines = []
        for side, zones in self.logic.measuredCement().items():
            heading = _("Left") if side == "left" else _("Right")
            parts = sorted(zones.items(), key=lambda part: -part[1])
            lines.append(f"{heading}: " + ", ".join(f"{self.logic.readable(zone)} {ml:.2f} mL" for zone, ml in parts))
        self.ui.verificationLabel.text = "\n".join(lines) or _("Nothing was measured yet.")


#
# SacroplastyFluoroscopyLogic
#


class SacroplastyFluoroscopyLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene.fluoroscopy; usable without the widget."""

    def getParameterNode(self):
        return SacroplastyFluoroscopyParameterNode(super().getParameterNode())

    def cArm(self, sourceToDetectorMm, sourceToIsocenterMm):
        from sacroplasty.xray.geometry import CArm

        return CArm(source_to_detector_mm=sourceToDetectorMm, source_to_isocenter_mm=sourceToIsocenterMm)

    def viewGeometry(self, view, ct, cArm=None):
        """Pose of a named view: "ap", "outlet", "inlet", "lateral", "oblique-left", "oblique-right"."""
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.view_geometry(slicer.mrmlScene, view, ct, cArm)

    def barrelGeometry(self, line, cArm=None):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.barrel_geometry(slicer.mrmlScene, line, cArm)

    def anglesText(self, geometry):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.angles_text(geometry)

    def segmentedCT(self):
        """CT and segmentation that the case goes on with; None for what is not there."""
        from sacroplasty.scene import anatomy

        return anatomy.segmented_ct(slicer.mrmlScene)

    def readable(self, name):
        from sacroplasty.scene import anatomy

        return anatomy.readable(name)

    def showCT(self, ct):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.show_ct_in_slice_view(slicer.mrmlScene, ct)

    def acceptPosition(self):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.accept_position(slicer.mrmlScene)

    def verify(self, segmentation, before, after):
        """mL of cement by zone, by side."""
        from sacroplasty.scene import verification

        return verification.verify(slicer.mrmlScene, segmentation, before, after)

    def measuredCement(self):
        from sacroplasty.scene import verification

        return verification.measured(slicer.mrmlScene)

    def simulate(self, ct, geometry, pixels, segmentation=None, withPlan=True, progress=None, name=""):
        """Simulate the X-ray and turn the red slice view to it."""
        from sacroplasty.scene import fluoroscopy

        view = fluoroscopy.simulate(slicer.mrmlScene, ct, geometry, pixels, segmentation, withPlan, progress, name)
        fluoroscopy.show_in_slice_view(slicer.mrmlScene, view)
        return view


#
# SacroplastyFluoroscopyTest
#


class SacroplastyFluoroscopyTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_BoneIsDarkerThanSoftTissue()

    def test_BoneIsDarkerThanSoftTissue(self):
        """A block of bone in a block of water throws a darker shadow, in the middle of the AP view."""
        import numpy as np

        from sacroplasty.image import Volume
        from sacroplasty.scene import nodes

        hounsfield = np.full((60, 60, 60), -1000, np.int16)
        hounsfield[5:55, 5:55, 5:55] = 0
        hounsfield[25:35, 25:35, 25:35] = 1000
        volume = Volume(hounsfield, np.diag([2.0, 2.0, 2.0, 1.0]))
        ct = nodes.add_volume(slicer.mrmlScene, volume, "CT")
        logic = SacroplastyFluoroscopyLogic()
        view = logic.simulate(ct, logic.viewGeometry("ap", ct), 128)
        picture = slicer.util.arrayFromVolume(view.image)[0]
        self.assertEqual(picture.shape, (128, 128))
        self.assertLess(int(picture[60:68, 60:68].mean()), int(picture[60:68, 46:50].mean()))
        self.delayDisplay(_("Test passed"))
