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

# Installed, the engine lies beside the modules. In a source checkout it has a folder of its own.
if importlib.util.find_spec("sacroplasty") is None:
    sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "SacroplastyExtension"))

#
# SacroplastyCementMonitor
#


class SacroplastyCementMonitor(ScriptedLoadableModule):
    """Cement clock, volumes, pressure, leak alarm, and injection that runs only while a button is held."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Cement Monitor")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Shows the age of the cement, volumes, pressure and leaks, and lets the pump run only while "
            "everything is known to be safe and a button is held. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


#
# SacroplastyCementMonitorParameterNode
#


@parameterNodeWrapper
class SacroplastyCementMonitorParameterNode:
    """
    temperatureC - Temperature of the room in which the cement is kept.
    """

    temperatureC: Annotated[float, WithinRange(15.0, 30.0)] = 22.0


#
# SacroplastyCementMonitorWidget
#


class SacroplastyCementMonitorWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._timer = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyCementMonitor.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyCementMonitorLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        self.ui.stopButton.connect("pressed()", self.onStopButton)
        self.ui.mixButton.connect("clicked(bool)", self.onMixButton)
        self.ui.learnButton.connect("clicked(bool)", self.onLearnButton)
        self.ui.armButton.connect("clicked(bool)", self.onArmButton)
        self.ui.leftRadioButton.connect("clicked(bool)", lambda checked=False: self.onSideChosen("left"))
        self.ui.rightRadioButton.connect("clicked(bool)", lambda checked=False: self.onSideChosen("right"))

        self.ui.withdrawnButton.connect("clicked(bool)", lambda checked=False: self.onWithdrawn(True))
        self.ui.tailButton.connect("clicked(bool)", lambda checked=False: self.onWithdrawn(False))

        self._timer = qt.QTimer()
        self._timer.setInterval(100)
        self._timer.connect("timeout()", self.showReadout)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self._timer.stop()
        self.logic.close()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self._timer.start()

    def exit(self):
        """Called each time the user opens a different module."""
        self._timer.stop()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.logic.close()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists and is observed."""
        self.setParameterNode(self.logic.getParameterNode())
        # Asked at every turn: cement runs only while the button is down and this page is shown.
        self.logic.start(lambda: self.parent.isEntered and self.ui.injectButton.down)

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
        self.logic.setTemperature(self._parameterNode.temperatureC)
        self.showReadout()

    def onStopButton(self):
        """Stop at the press, not at the release, and without a question."""
        told = self.logic.stop()
        self.ui.refusalLabel.text = _("■ STOP was sent.") if told else _("✘ No pump to stop: stop it by hand.")
        self.showReadout()

    def onMixButton(self):
        self.logic.mix()
        self.ui.cementCollapsibleButton.collapsed = True
        self.showReadout()

    def onLearnButton(self):
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.learnViews()
            self.ui.refusalLabel.text = ""
        except SacroplastyError as error:
            self.ui.refusalLabel.text = f"✘ {error}"
        self.showReadout()

    def onArmButton(self):
        self.logic.arm()
        self.showReadout()

    def onWithdrawn(self, withoutTail):
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.recordWithdrawal(withoutTail)
            self.ui.withdrawalLabel.text = _("✔ Recorded.")
        except SacroplastyError as error:
            self.ui.withdrawalLabel.text = f"✘ {error}"

    def onSideChosen(self, side):
        self.logic.choose(side)
        self.showReadout()

    def showReadout(self):
        """Everything in large letters; a dash for what is not known."""
        if self._parameterNode is None:
            return
        self.logic.setTemperature(self._parameterNode.temperatureC)
        readout = self.logic.readout()
        if readout is None:
            self.ui.bannerLabel.text = _("✘ The module Sacroplasty Devices is not loaded.")
            return
        self.showBanner(readout)
        self.ui.clockLabel.text = self.minutes(readout.age_s)
        self.ui.phaseLabel.text = self.phaseText(readout)
        for side, label in (("left", self.ui.leftVolumeLabel), ("right", self.ui.rightVolumeLabel)):
            planned = readout.planned_ml[side]
            label.text = f"{readout.given_ml[side]:.1f} / {'–' if planned is None else f'{planned:.1f}'}"
        self.ui.totalVolumeLabel.text = f"{readout.total_ml:.1f} / {readout.total_limit_ml:.0f}"
        self.ui.pressureLabel.text = "–" if readout.pressure_kpa is None else f"{readout.pressure_kpa:.0f}"
        self.ui.stateLabel.text = _("Pump: {state}").format(state=readout.pump_text)
        self.ui.stepLabel.text = readout.step_text
        self.ui.armButton.enabled = readout.may_arm
        self.ui.armButton.text = _("Reset") if readout.injection == "stopped" else _("Arm")
        self.ui.injectButton.enabled = readout.may_inject
        self.ui.leftRadioButton.checked = self.logic.side() == "left"
        self.ui.rightRadioButton.checked = self.logic.side() == "right"
        # What was refused a moment ago must not stand there while cement flows.
        if readout.reason or readout.injection == "injecting":
            self.ui.refusalLabel.text = readout.reason

    def showBanner(self, readout):
        """Level by word, symbol and color; it never goes away while the level stands."""
        words = {
            "none": (_("✔ NO LEAK SEEN"), "#1b7f3b"),
            "watch": (_("◔ WATCH"), "#8a6d00"),
            "warning": (_("⚠ WARNING"), "#c25e00"),
            "leak": (_("✘ LEAK"), "#b00020"),
            "blind": (_("✘ MONITOR BLIND"), "#5a5a5a"),
        }
        word, color = words[readout.banner]
        self.ui.bannerLabel.text = f"{word}\n{readout.banner_text}" if readout.banner_text else word
        self.ui.bannerLabel.styleSheet = (
            f"font-size: 20pt; font-weight: bold; color: white; background-color: {color}; padding: 6px;"
        )

    @staticmethod
    def minutes(seconds):
        return "–" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def phaseText(self, readout):
        left = self.minutes(readout.seconds_to_next)
        return {
            "not-mixed": _("not mixed"),
            "mixing": _("✘ mixing"),
            "waiting": _("✘ wait {time}").format(time=left),
            "working": _("✔ {time} left").format(time=left),
            "too-stiff": _("✘ too stiff"),
        }.get(readout.phase, _("✘ unknown"))


#
# SacroplastyCementMonitorLogic
#


class SacroplastyCementMonitorLogic(ScriptedLoadableModuleLogic):
    """A few lines onto sacroplasty.scene.cement, at the turns of the devices module; usable without the widget."""

    # A reading of the room speaks for two minutes; taken anew well before.
    TEMPERATURE_INTERVAL_S = 30.0

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._desk = None
        self._devices = None
        self._isHeld = None
        self._request = None
        self._temperature = None

    def getParameterNode(self):
        return SacroplastyCementMonitorParameterNode(super().getParameterNode())

    def start(self, isHeld):
        """Begin on the case of the scene.

        :param isHeld: function that tells whether a person holds the injection button now.
        """
        self._isHeld = isHeld
        if not hasattr(slicer.modules, "sacroplastydevices"):
            return
        from sacroplasty.scene.cement import CementDesk

        self._devices = slicer.util.getModuleLogic("SacroplastyDevices")
        if self._desk is None:
            self._desk = CementDesk(slicer.mrmlScene, self._devices.desk(), time.monotonic(), time.time())
        self._devices.addListener(self.tick)

    def tick(self, now):
        """One turn, called by the devices module."""
        request, self._request = self._request, None
        self._desk.tick(now, bool(self._isHeld()), request)

    def side(self):
        return self._desk.side if self._desk else "left"

    def choose(self, side):
        if self._desk:
            self._desk.choose(side, time.monotonic())

    def arm(self):
        """Ask for arming at the next turn; after a stop, for the reset that has to come before."""
        stopped = self._desk is not None and self._desk.readout(time.monotonic()).injection == "stopped"
        self._request = "reset" if stopped else "arm"

    def stop(self):
        """Stop the pump now; False when it cannot be told."""
        return self._desk is not None and self._desk.stop(time.monotonic())

    def mix(self):
        if self._desk:
            self._desk.mix(time.monotonic(), time.time())

    def learnViews(self):
        """Learn the views without cement; from then on they are watched."""
        if self._desk:
            self._desk.learn_views()

    def recordWithdrawal(self, withoutTail):
        from sacroplasty.scene import cement

        cement.record_withdrawal(slicer.mrmlScene, withoutTail)

    def setTemperature(self, celsius):
        now = time.monotonic()
        if self._desk is None:
            return
        if (
            self._temperature is None
            or self._temperature[0] != celsius
            or (now - self._temperature[1] > self.TEMPERATURE_INTERVAL_S)
        ):
            self._temperature = celsius, now
            self._desk.read_temperature(celsius, now)

    def readout(self):
        """A CementReadout, or None before start()."""
        return self._desk.readout(time.monotonic()) if self._desk else None

    def close(self):
        """Let go of the case."""
        if self._devices is not None:
            self._devices.removeListener(self.tick)
        self._desk = self._devices = self._temperature = None


#
# SacroplastyCementMonitorTest
#


class SacroplastyCementMonitorTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_NothingFlowsWithoutDevices()

    def test_NothingFlowsWithoutDevices(self):
        """Without pump and monitor the page says so, the clock runs, and holding the button moves nothing."""
        from sacroplasty.scene.cement import CementDesk
        from sacroplasty.scene.devices import DeviceDesk

        desk = CementDesk(slicer.mrmlScene, DeviceDesk(slicer.mrmlScene, "test"), 0.0, 1000.0)
        desk.mix(0.0, 1000.0)
        desk.tick(1.0, True, "arm")
        desk.tick(2.0, True)
        readout = desk.readout(60.0)
        self.assertEqual(readout.age_s, 60.0)
        self.assertEqual(readout.banner, "blind")
        self.assertFalse(readout.may_inject)
        self.assertEqual(readout.total_ml, 0.0)
        self.delayDisplay(_("Test passed"))
