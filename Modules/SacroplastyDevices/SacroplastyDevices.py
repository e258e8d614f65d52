import importlib.util
import os
import shutil
import sys
import time
import uuid
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
# SacroplastyDevices
#


class SacroplastyDevices(ScriptedLoadableModule):
    """Connections to tracker, C-arm and cement pump over OpenIGTLink, and their simulators."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sacroplasty Devices")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "IGT") + ".Sacroplasty"]
        self.parent.dependencies = []
        self.parent.contributors = ["Sacroplasty contributors"]
        self.parent.helpText = _(
            "Connects to tracker, C-arm and cement pump over OpenIGTLink and shows the health of each. Built-in "
            "simulators allow trying out without any device. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


#
# SacroplastyDevicesParameterNode
#


@parameterNodeWrapper
class SacroplastyDevicesParameterNode:
    """
    host - Address of the devices.
    trackerPort, fluoroscopePort, pumpPort - OpenIGTLink port of each; 0 for a device that is not there.
    """

    host: str = "127.0.0.1"
    trackerPort: Annotated[int, WithinRange(0, 65535)] = 18944
    fluoroscopePort: Annotated[int, WithinRange(0, 65535)] = 18945
    pumpPort: Annotated[int, WithinRange(0, 65535)] = 18946


#
# SacroplastyDevicesWidget
#


class SacroplastyDevicesWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._pollTimer = None
        self._tableTimer = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyDevices.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyDevicesLogic()

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        header = self.ui.devicesTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
        self.ui.stopButton.connect("pressed()", self.onStopButton)
        self.ui.connectButton.connect("clicked(bool)", self.onConnectButton)
        self.ui.disconnectButton.connect("clicked(bool)", self.onDisconnectButton)
        self.ui.startSimulatorsButton.connect("clicked(bool)", self.onStartSimulatorsButton)
        self.ui.stopSimulatorsButton.connect("clicked(bool)", self.onStopSimulatorsButton)

        # The links do their work in poll(); a thread would starve in a busy Slicer, a timer does not.
        self._pollTimer = qt.QTimer()
        self._pollTimer.setInterval(5)
        self._pollTimer.connect("timeout()", self.onPoll)
        self._tableTimer = qt.QTimer()
        self._tableTimer.setInterval(200)
        self._tableTimer.connect("timeout()", self.showDevices)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self._pollTimer.stop()
        self._tableTimer.stop()
        self.logic.close()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self._tableTimer.start()

    def exit(self):
        """Called each time the user opens a different module."""
        self._tableTimer.stop()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed. Devices of the old case must not act on the new one."""
        self.onDisconnectButton()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Ensure that the parameter node exists and is observed."""
        self.setParameterNode(self.logic.getParameterNode())

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
        self.showDevices()

    def onStopButton(self):
        """Stop at the press, not at the release, and without a question."""
        if self.logic.stopPump():
            self.ui.statusLabel.text = _("■ Stop was sent to the pump.")
        else:
            self.ui.statusLabel.text = _("✘ There is no pump to stop: use the stop at the pump itself.")
        self.showDevices()

    def onConnectButton(self):
        parameters = self._parameterNode
        self.connectTo(parameters.host, parameters.trackerPort, parameters.fluoroscopePort, parameters.pumpPort)

    def connectTo(self, host, trackerPort, fluoroscopePort, pumpPort):
        """Connect, and say in the panel what is wrong if it cannot be tried: no dialog in an operating room."""
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.connectDevices(host, trackerPort, fluoroscopePort, pumpPort)
            self.ui.statusLabel.text = ""
            self._pollTimer.start()
        except SacroplastyError as error:
            self.ui.statusLabel.text = f"✘ {error}"
        self.showDevices()

    def onDisconnectButton(self, *unused):
        self._pollTimer.stop()
        self.logic.disconnectDevices()
        self.showDevices()

    def onStartSimulatorsButton(self):
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.startSimulators()
            self.ui.statusLabel.text = _("Simulators are starting…")
            self._pollTimer.start()
        except SacroplastyError as error:
            self.ui.statusLabel.text = f"✘ {error}"
        self.showDevices()

    def onStopSimulatorsButton(self):
        self.onDisconnectButton()
        self.logic.stopSimulators()
        self.ui.statusLabel.text = _("Simulators are stopped.")
        self.showDevices()

    def onPoll(self):
        """One turn of the links, and of whoever listens to them."""
        ready, problem = self.logic.pollSimulators()
        if problem:
            self.ui.statusLabel.text = f"✘ {problem}"
            self.logic.stopSimulators()
            self.onDisconnectButton()
            return
        if ready:
            self.connectTo("127.0.0.1", ready["tracker"], ready["carm"], ready["pump"])
        self.logic.tick()

    def showDevices(self):
        """The table of devices. The symbol says what the color would."""
        rows = self.logic.rows()
        table = self.ui.devicesTable
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            age = f"{row.age_ms:.0f}" if row.age_ms < 1e6 else "–"
            texts = (
                row.role,
                ("✔ " if row.ok else "✘ ") + row.text,
                f"{row.rate_hz:.0f}",
                age,
                str(row.dropped),
                row.address,
            )
            for column, text in enumerate(texts):
                table.setItem(number, column, qt.QTableWidgetItem(text))
                table.item(number, column).setToolTip(text)
        self.ui.errorsLabel.text = "\n".join(f"{row.role}: {row.last_error}" for row in rows if row.last_error)
        connected = self.logic.connected()
        self.ui.connectButton.enabled = not connected
        self.ui.disconnectButton.enabled = connected
        self.ui.startSimulatorsButton.enabled = not self.logic.simulatorsRunning()
        self.ui.stopSimulatorsButton.enabled = self.logic.simulatorsRunning()


#
# SacroplastyDevicesLogic
#


class SacroplastyDevicesLogic(ScriptedLoadableModuleLogic):
    """The connections of this Slicer: a few lines onto sacroplasty.scene.devices.

    Other modules reach it through slicer.util.getModuleLogic("SacroplastyDevices").
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._desk = None
        self._simulators = None
        self._simulatorsConnected = False
        self._listeners = []

    def getParameterNode(self):
        return SacroplastyDevicesParameterNode(super().getParameterNode())

    def desk(self):
        """The DeviceDesk of this Slicer."""
        if self._desk is None:
            from sacroplasty.scene.devices import DeviceDesk

            self._desk = DeviceDesk(slicer.mrmlScene, uuid.uuid4().hex)
        return self._desk

    def connectDevices(self, host, trackerPort, fluoroscopePort, pumpPort):
        self.desk().connect(host, trackerPort, fluoroscopePort, pumpPort)

    def disconnectDevices(self):
        if self._desk is not None:
            self._desk.disconnect()

    def connected(self):
        return self._desk is not None and self._desk.connected

    def rows(self):
        """The state of every device; see sacroplasty.scene.devices.DeviceRow."""
        return self.desk().rows(time.monotonic())

    def stopPump(self):
        """Stop the pump; False when it cannot be told."""
        return self._desk is not None and self._desk.stop_pump(time.monotonic())

    def addListener(self, listener):
        """Have a function called at every turn, with the time in seconds; if it fails, the pump is stopped."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def removeListener(self, listener):
        if listener in self._listeners:
            self._listeners.remove(listener)

    def tick(self):
        """One turn: decisions first, so that the heartbeat that goes out with poll() stands for them.

        A listener that fails stops the pump and is not called again until it is added anew.
        """
        now = time.monotonic()
        for listener in list(self._listeners):
            try:
                listener(now)
            except Exception:
                self.removeListener(listener)
                self.desk().stop_pump(now)
                self.desk().poll(now)
                raise
        self.desk().poll(now)

    def startSimulators(self):
        from sacroplasty.scene.devices import SimulatorProcess

        self.stopSimulators()
        self._simulatorsConnected = False
        self._simulators = SimulatorProcess(shutil.which("PythonSlicer") or sys.executable)

    def stopSimulators(self):
        if self._simulators is not None:
            self._simulators.stop()
            self._simulators = None

    def simulatorsRunning(self):
        return self._simulators is not None and self._simulators.running

    def pollSimulators(self):
        """Ports by role once all are ready (told once), and what went wrong."""
        if self._simulators is None:
            return None, ""
        self._simulators.poll()
        ports = self._simulators.ports
        if self._simulatorsConnected or not {"tracker", "carm", "pump"} <= set(ports):
            return None, self._simulators.problem
        self._simulatorsConnected = True
        return dict(ports), self._simulators.problem

    def close(self):
        """End everything, as when Slicer closes."""
        self.disconnectDevices()
        self.stopSimulators()


#
# SacroplastyDevicesTest
#


class SacroplastyDevicesTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_NothingIsReliedUponBeforeItSpeaks()

    def test_NothingIsReliedUponBeforeItSpeaks(self):
        """A device that is not there is shown as such, and stopping a pump that is not there says so."""
        logic = SacroplastyDevicesLogic()
        self.assertFalse(logic.stopPump())
        self.assertEqual([row.ok for row in logic.rows()], [False, False, False])
        logic.connectDevices("127.0.0.1", 9, 0, 9)
        logic.tick()
        self.assertTrue(logic.connected())
        self.assertEqual([row.ok for row in logic.rows()], [False, False, False])
        logic.close()
        self.assertFalse(logic.connected())
        self.delayDisplay(_("Test passed"))
