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
from slicer import vtkMRMLMarkupsLineNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastyFluoroscopy
#


class SacroplastyFluoroscopy(ScriptedLoadableModule):
    """C-arm views of this patient as simulated X-rays beside real ones, with plan and structures drawn over both."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Fluoroscopy")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Finds the C-arm views of this patient (AP, outlet, inlet, lateral, oblique, biplane, along and across "
            "each trocar), simulates the X-ray of each from the CT and draws plan and structures over it and over "
            "real images. Research software, not a medical device."
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
    real - An X-ray of known geometry.
    after - CT after the procedure.
    primaryDeg, secondaryDeg - How the detector is turned from straight in front of the patient (LAO +, CRA +).
    leftMm, backMm, headMm - The middle of the picture from that of the sacrum.
    wantedView - The view that the position is meant to show.
    cArmName, sourceToDetectorMm, sourceToIsocenterMm, pixels - The C-arm and its picture.
    primaryLowDeg, primaryHighDeg, secondaryLowDeg, secondaryHighDeg - How far it turns.
    show... - What is drawn over the X-ray.
    """

    ct: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    trajectory: vtkMRMLMarkupsLineNode
    real: vtkMRMLScalarVolumeNode
    after: vtkMRMLScalarVolumeNode
    primaryDeg: Annotated[float, WithinRange(-180.0, 180.0)] = 0.0
    secondaryDeg: Annotated[float, WithinRange(-89.0, 89.0)] = 0.0
    leftMm: Annotated[float, WithinRange(-150.0, 150.0)] = 0.0
    backMm: Annotated[float, WithinRange(-150.0, 150.0)] = 0.0
    headMm: Annotated[float, WithinRange(-150.0, 150.0)] = 0.0
    wantedView: str = ""
    cArmName: str = "mobile-flat-panel"
    sourceToDetectorMm: Annotated[float, WithinRange(600.0, 1500.0)] = 1020.0
    sourceToIsocenterMm: Annotated[float, WithinRange(300.0, 1200.0)] = 620.0
    pixels: Annotated[int, WithinRange(64, 1024)] = 512
    primaryLowDeg: Annotated[float, WithinRange(-180.0, 180.0)] = -45.0
    primaryHighDeg: Annotated[float, WithinRange(-180.0, 180.0)] = 95.0
    secondaryLowDeg: Annotated[float, WithinRange(-90.0, 90.0)] = -60.0
    secondaryHighDeg: Annotated[float, WithinRange(-90.0, 90.0)] = 60.0
    showTrajectories: bool = True
    showForamina: bool = True
    showCanal: bool = True
    showAlae: bool = True
    showJoints: bool = False
    showCement: bool = True


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
        self._settling = False
        self._drawn = None
        self._observedReal = None
        self._realGeometry = None

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
            "biplane-1": self.ui.biplane1Button,
            "biplane-2": self.ui.biplane2Button,
        }
        for view, button in self._viewButtons.items():
            button.connect("clicked(bool)", lambda checked=False, view=view: self.onViewButton(view))
        self.ui.findViewsButton.connect("clicked(bool)", self.onFindViewsButton)
        self.ui.barrelButton.connect("clicked(bool)", lambda checked=False: self.onTrocarButton("barrel"))
        self.ui.perpendicularButton.connect("clicked(bool)", lambda checked=False: self.onTrocarButton("perpendicular"))
        for slider in self.poseSliders():
            slider.connect("valueChanged(double)", self.onPoseChanged)
        self.ui.viewsTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        self.ui.viewsTable.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.Stretch)
        self.ui.viewsTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        self.ui.viewsTable.connect("cellDoubleClicked(int,int)", self.onTableDoubleClicked)
        for name in self.logic.cArms():
            self.ui.cArmComboBox.addItem(name)
        self.ui.cArmComboBox.connect("activated(int)", self.onCArmChosen)
        self.ui.fasterButton.connect("clicked(bool)", self.onFasterButton)
        self.ui.fasterButton.visible = not self.logic.hasCompiler()
        self.ui.exportButton.connect("clicked(bool)", self.onExportButton)
        self.ui.loadButton.connect("clicked(bool)", self.onLoadButton)
        self.ui.sideBySideButton.connect("clicked(bool)", self.onSideBySideButton)
        self.ui.reportButton.connect("clicked(bool)", self.onReportButton)
        self.ui.showCTButton.connect("clicked(bool)", self.onShowCTButton)
        self.ui.acceptButton.connect("clicked(bool)", self.onAcceptButton)
        self.ui.verifyButton.connect("clicked(bool)", self.onVerifyButton)

        self.initializeParameterNode()

    def poseSliders(self):
        return (
            self.ui.primarySlider,
            self.ui.secondarySlider,
            self.ui.leftSlider,
            self.ui.backSlider,
            self.ui.headSlider,
            self.ui.sourceToDetectorSliderWidget,
        )

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
        self.observeReal(None)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            # What a saved scene restores is no wish of a person to take another picture.
            self._settling = True
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self._settling = False
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self._drawn = self.families()
            self.ui.cArmComboBox.setCurrentText(self._parameterNode.cArmName)
            self.onParametersModified()
            self.showViews()
            self.showScore()

    def families(self):
        """What is to be drawn over the X-rays."""
        parameters = self._parameterNode
        shown = {
            "trajectories": parameters.showTrajectories,
            "foramina": parameters.showForamina,
            "canal": parameters.showCanal,
            "alae": parameters.showAlae,
            "joints": parameters.showJoints,
            "cement": parameters.showCement,
        }
        return tuple(family for family, wanted in shown.items() if wanted)

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        ready = parameters.ct is not None
        for button in self._viewButtons.values():
            button.enabled = ready
        for button in (self.ui.biplane1Button, self.ui.biplane2Button, self.ui.findViewsButton):
            button.enabled = ready and parameters.segmentation is not None
        for button in (self.ui.barrelButton, self.ui.perpendicularButton):
            button.enabled = ready and parameters.trajectory is not None
        self.ui.showCTButton.enabled = ready
        self.ui.acceptButton.enabled = ready
        self.ui.reportButton.enabled = self.logic.simulated() is not None
        known = parameters.segmentation is not None and parameters.after not in (None, parameters.ct)
        self.ui.verifyButton.enabled = ready and known
        real = parameters.real is not None and bool(self.logic.geometryText(parameters.real))
        self.ui.sideBySideButton.enabled = real and self.logic.simulated() is not None
        self.observeReal(parameters.real)
        if not self._settling and self._drawn != self.families():
            self._drawn = self.families()
            self.drawAgain()
        self.showVerification()

    # Views

    def cArm(self):
        parameters = self._parameterNode
        return self.logic.cArm(parameters.cArmName, parameters.sourceToDetectorMm, parameters.sourceToIsocenterMm)

    def reach(self):
        parameters = self._parameterNode
        return self.logic.reach(
            (parameters.primaryLowDeg, parameters.primaryHighDeg),
            (parameters.secondaryLowDeg, parameters.secondaryHighDeg),
        )

    def views(self):
        """The views of this patient; found when they are not known yet, which takes some seconds."""
        parameters = self._parameterNode
        return self.logic.views(parameters.ct, parameters.segmentation, self.cArm(), self.reach(), self.showProgress)

    def onFindViewsButton(self):
        def find():
            self.views()
            self.showViews()
            self.ui.anglesCollapsibleButton.collapsed = False
            self.showScore()

        self.guarded(find)

    def onViewButton(self, view):
        def take():
            views = self.views()
            if view not in views:
                self.ui.statusLabel.text = _("✘ This patient has no such view: no foramen is open in the labels")
                return
            self.takeView(views[view], view)

        self.guarded(take)

    def onTrocarButton(self, kind):
        parameters = self._parameterNode

        def take():
            views = self.logic.trocarViews(
                parameters.trajectory, parameters.ct, parameters.segmentation, self.cArm(), self.reach()
            )
            self.takeView(views[kind])

        self.guarded(take)

    def onTableDoubleClicked(self, row, column):
        self.onViewButton(self.logic.viewsTable()[row]["view"])

    def takeView(self, view, name=""):
        """Move the sliders to a view and simulate its X-ray."""
        parameters = self._parameterNode
        pose = self.logic.poseOfView(parameters.ct, view)
        self._settling = True
        parameters.primaryDeg, parameters.secondaryDeg = pose.primary_deg, pose.secondary_deg
        parameters.leftMm, parameters.backMm, parameters.headMm = pose.shift_mm
        parameters.wantedView = view.name
        self._settling = False
        self.logic.wanted = view
        self.simulate(view.geometry, name)
        self.showViews()

    def onPoseChanged(self, value):
        """A person moved a slider: the picture follows."""
        parameters = self._parameterNode
        if self._settling or parameters is None or parameters.ct is None or self.logic.simulated() is None:
            return
        self.guarded(lambda: self.simulate(self.poseGeometry()))

    def poseGeometry(self):
        """The position that the sliders show."""
        primary, secondary, left, back, head, _distance = (slider.value for slider in self.poseSliders())
        cArm = self.logic.cArm(
            self._parameterNode.cArmName,
            self.ui.sourceToDetectorSliderWidget.value,
            self._parameterNode.sourceToIsocenterMm,
        )
        return self.logic.poseGeometry(self._parameterNode.ct, primary, secondary, (left, back, head), cArm)

    def simulate(self, geometry, name=""):
        parameters = self._parameterNode
        self.logic.simulate(
            parameters.ct,
            geometry,
            parameters.pixels,
            parameters.segmentation,
            self.families(),
            self.showProgress,
            name,
            self.cArm().field_diameter_mm,
        )
        self.onParametersModified()
        self.showScore()

    def guarded(self, work):
        """Do what takes a moment; a refusal is said in the panel, not in a dialog."""
        from sacroplasty.errors import SacroplastyError

        self.ui.progressBar.visible = True
        try:
            with slicer.util.WaitCursor():
                work()
        except SacroplastyError as error:
            self.ui.statusLabel.text = f"✘ {error}"
            self.ui.adviceLabel.text = ""
        finally:
            self._settling = False
            self.ui.progressBar.visible = False

    def showProgress(self, fraction):
        self.ui.progressBar.value = round(100 * fraction)
        self.ui.progressBar.repaint()

    def showViews(self):
        """Angles of the views that were found."""
        rows = self.logic.viewsTable()
        table = self.ui.viewsTable
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            texts = (self.logic.readableView(row["view"]), row["detector"], row["upper_end_above_prone_patient"])
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(row["note"] or text)
                table.setItem(number, column, item)
        self.ui.exportButton.enabled = bool(rows)

    def showScore(self):
        """How well the simulated position, and the one of the real image, meet the view that is wanted."""
        parameters = self._parameterNode
        view = self.logic.wantedView(parameters.wantedView)
        simulated = self.logic.simulated()
        self.ui.realLabel.text, self.ui.realAdviceLabel.text = self.logic.realTexts(view, parameters.real)
        if view is None:
            self.ui.statusLabel.text = _("Choose a CT and a view.") if parameters.ct is None else _("Choose a view.")
            self.ui.adviceLabel.text = ""
            return
        text, advice = self.logic.scoreText(view, simulated)
        self.ui.statusLabel.text = text
        self.ui.adviceLabel.text = "\n".join(line for line in (advice, view.note) if line)

    # Overlay and real image

    def drawAgain(self):
        """Draw what is wanted now over the pictures that are there."""
        parameters = self._parameterNode
        images = (self.logic.simulated(), parameters.real)
        images = [image for image in images if image is not None and self.logic.geometryText(image)]

        def draw():
            for image in images:
                self.logic.drawOver(image, parameters.ct, parameters.segmentation, self.families())

        if images:
            self.guarded(draw)

    def observeReal(self, image):
        """Follow the real image: a live one moves with the C-arm."""
        if image is self._observedReal:
            return
        if self._observedReal is not None:
            self.removeObserver(self._observedReal, vtk.vtkCommand.ModifiedEvent, self.onRealModified)
        self._observedReal, self._realGeometry = image, ""
        if image is not None:
            self.addObserver(image, vtk.vtkCommand.ModifiedEvent, self.onRealModified)
            self.onRealModified()

    def onRealModified(self, caller=None, event=None):
        """The outlines are drawn anew only when the C-arm has moved."""
        geometry = self.logic.geometryText(self._observedReal)
        if geometry == self._realGeometry:
            return
        self._realGeometry = geometry
        parameters = self._parameterNode

        if geometry:
            self.guarded(
                lambda: self.logic.drawOver(self._observedReal, parameters.ct, parameters.segmentation, self.families())
            )
        self.showScore()

    def onFasterButton(self):
        with slicer.util.tryWithErrorDisplay(_("X-rays stay as fast as they are."), waitCursor=True):
            self.logic.installCompiler()
            self.ui.fasterButton.visible = not self.logic.hasCompiler()

    def onLoadButton(self):
        with slicer.util.tryWithErrorDisplay(_("The X-ray was not loaded."), waitCursor=True):
            self._parameterNode.real = self.logic.loadReal(
                self.ui.imagePathLineEdit.currentPath, self.ui.geometryPathLineEdit.currentPath
            )
            self.ui.imagePathLineEdit.addCurrentPathToHistory()
            self.ui.geometryPathLineEdit.addCurrentPathToHistory()

    def onSideBySideButton(self):
        self.logic.showSideBySide(self.logic.simulated(), self._parameterNode.real)

    def onReportButton(self):
        parameters = self._parameterNode

        def send():
            title = self.logic.readableView(parameters.wantedView) or _("C-arm")
            caption = self.logic.sendToReport(
                self.logic.simulated(), title, parameters.ct, parameters.segmentation, self.families()
            )
            if parameters.real is not None and self.logic.geometryText(parameters.real):
                self.logic.sendToReport(
                    parameters.real,
                    _("{view}, real image").format(view=title),
                    parameters.ct,
                    parameters.segmentation,
                    self.families(),
                )
            self.ui.adviceLabel.text = _("✔ In the report: {caption}").format(caption=caption)

        self.guarded(send)

    def onExportButton(self):
        with slicer.util.tryWithErrorDisplay(_("The table was not written."), waitCursor=True):
            self.logic.exportViews(self.ui.exportPathLineEdit.currentPath)
            self.ui.exportPathLineEdit.addCurrentPathToHistory()
            self.ui.adviceLabel.text = _("✔ Written to {path}").format(path=self.ui.exportPathLineEdit.currentPath)

    def onCArmChosen(self, index):
        """Detector and distances of a known C-arm."""
        parameters = self._parameterNode
        name = self.ui.cArmComboBox.currentText
        cArm = self.logic.cArms()[name]
        self._settling = True
        parameters.cArmName = name
        parameters.sourceToDetectorMm = cArm.source_to_detector_mm
        parameters.sourceToIsocenterMm = cArm.source_to_isocenter_mm
        self._settling = False
        self.onPoseChanged(0.0)

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

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._desk = None
        #: The view that was taken last; views of a moved trocar are in no table.
        self.wanted = None

    def desk(self):
        """What keeps the patient ready to be projected."""
        from sacroplasty.scene.fluoroscopy import FluoroscopyDesk

        if self._desk is None:
            self._desk = FluoroscopyDesk(slicer.mrmlScene)
        return self._desk

    def hasCompiler(self):
        """Whether the package that compiles the projector is there."""
        return importlib.util.find_spec("numba") is not None

    def installCompiler(self):
        """Install it after Slicer's own question, and compile, so that no X-ray waits for it."""
        from slicer.packaging import pip_ensure

        pip_ensure("numba>=0.68,<1", requester="Sacroplasty Fluoroscopy")
        importlib.invalidate_caches()
        if self.hasCompiler():
            from sacroplasty.xray.projectable import compiled_loops

            compiled_loops.cache_clear()
            compiled_loops()

    def cArms(self):
        """Known C-arms by name."""
        from sacroplasty.xray.presets import c_arms

        return c_arms()

    def cArm(self, name, sourceToDetectorMm, sourceToIsocenterMm):
        """A known C-arm at these distances; the default one for a name that is not known here."""
        from dataclasses import replace

        known = self.cArms()
        return replace(
            known.get(name, next(iter(known.values()))),
            source_to_detector_mm=sourceToDetectorMm,
            source_to_isocenter_mm=sourceToIsocenterMm,
        )

    def reach(self, primaryDeg, secondaryDeg):
        from sacroplasty.xray.reach import ReachableRange

        return ReachableRange(primaryDeg, secondaryDeg).check()

    def views(self, ct, segmentation, cArm=None, reach=None, progress=None):
        """Views of this patient by name: "ap", "outlet", "inlet", "lateral", "oblique-left", ..."""
        return self.desk().views(ct, segmentation, cArm, reach, progress)

    def trocarViews(self, line, ct, segmentation, cArm=None, reach=None):
        """Views "barrel" and "perpendicular" of a line of the plan."""
        return self.desk().trocar_views(line, ct, segmentation, cArm, reach)

    def wantedView(self, name):
        """The view of this name that was taken last or is in the scene; None for none."""
        from sacroplasty.scene import fluoroscopy

        if self.wanted is not None and self.wanted.name == name:
            return self.wanted
        return fluoroscopy.found_views(slicer.mrmlScene).get(name)

    def viewsTable(self):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.views_table(slicer.mrmlScene)

    def exportViews(self, path):
        from sacroplasty.scene import fluoroscopy

        fluoroscopy.export_views(slicer.mrmlScene, path)

    def poseOfView(self, ct, view):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.pose_of_view(slicer.mrmlScene, ct, view)

    def poseGeometry(self, ct, primaryDeg, secondaryDeg, shiftMm=(0.0, 0.0, 0.0), cArm=None):
        """Geometry of a position set by angles and shifts to the left, the back and the head."""
        from sacroplasty.scene import fluoroscopy

        pose = fluoroscopy.Pose(primaryDeg, secondaryDeg, shiftMm)
        return fluoroscopy.geometry_of_pose(slicer.mrmlScene, ct, pose, cArm)

    def readableView(self, name):
        """ "oblique-left" as "Oblique left"."""
        return "AP" if name == "ap" else name.replace("-", " ").capitalize()

    def scoreText(self, view, image):
        """How well an X-ray's position meets a view, and what to do about it."""
        from sacroplasty.scene import fluoroscopy

        if image is None:
            return _("{view}: no X-ray yet").format(view=self.readableView(view.name)), ""
        score = fluoroscopy.score(view, fluoroscopy.geometry_of(image))
        marks = {
            "good": _("✔ {view}: good, {off:.1f}° off"),
            "usable": _("⚠ {view}: usable, {off:.1f}° off"),
            "off": _("✘ {view}: not met, {off:.1f}° off"),
        }
        text = marks[score.verdict].format(view=self.readableView(view.name), off=score.off_deg)
        angles = fluoroscopy.angles_text(fluoroscopy.geometry_of(image))
        advice = "" if score.verdict == "good" else f"; {score.advice}"
        return text, _("Detector at {angles}{advice}").format(angles=angles, advice=advice)

    def realTexts(self, view, image):
        """How well a real image meets the wanted view, and what to do about it or why nothing can be said."""
        if image is None:
            return "", ""
        if not self.geometryText(image):
            advice = _("Nothing is drawn over {image}: where its C-arm stood is not known.")
            return _("✘ Geometry not known"), advice.format(image=image.GetName())
        return self.scoreText(view, image) if view is not None else ("", "")

    def simulated(self):
        """The simulated X-ray in the scene; None before the first."""
        from sacroplasty.scene import fluoroscopy, nodes

        return nodes.first_node(slicer.mrmlScene, "vtkMRMLScalarVolumeNode", fluoroscopy.IMAGE_NAME)

    def geometryText(self, image):
        """Changes when the C-arm of a live image has moved."""
        from sacroplasty.scene import devices

        return image.GetAttribute(devices.GEOMETRY)

    def loadReal(self, image, geometry):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.load_real(slicer.mrmlScene, image, geometry)

    def drawOver(self, image, ct, segmentation, families):
        """Draw the outlines over an X-ray of known geometry."""
        return self.desk().draw_over(image, ct, segmentation, families)

    def showSideBySide(self, simulated, real):
        from sacroplasty.scene import fluoroscopy

        return fluoroscopy.show_side_by_side(slicer.mrmlScene, simulated, real)

    def sendToReport(self, image, title, ct, segmentation, families):
        return self.desk().send_to_report(image, title, ct, segmentation, families)

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

    def simulate(
        self, ct, geometry, pixels, segmentation=None, families=(), progress=None, name="", fieldDiameterMm=None
    ):
        """Simulate the X-ray and turn the red slice view to it."""
        from sacroplasty.scene import fluoroscopy

        view = self.desk().simulate(ct, geometry, pixels, segmentation, families, progress, name, fieldDiameterMm)
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
        view = logic.simulate(ct, logic.views(ct, None)["ap"].geometry, 128)
        picture = slicer.util.arrayFromVolume(view.image)[0]
        self.assertEqual(picture.shape, (128, 128))
        self.assertLess(int(picture[60:68, 60:68].mean()), int(picture[60:68, 46:50].mean()))
        self.delayDisplay(_("Test passed"))
