import importlib.util
import os
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path

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
            "Connects to tracker, C-arm and cement pump over OpenIGTLink, shows the health of each, and records and "
            "replays. Built-in simulators allow trying out without any device. Research software, not a medical device."
        )
        self.parent.acknowledgementText = _("Developed by the Sacroplasty contributors.")


#
# SacroplastyDevicesParameterNode
#


@parameterNodeWrapper
class SacroplastyDevicesParameterNode:
    """
    trackerAddress, fluoroscopeAddress, pumpAddress - host:port of each device, empty for one that is not there; "scene"
    for tracker or C-arm whose nodes OpenIGTLinkIF keeps up to date.
    """

    trackerAddress: str = "127.0.0.1:18944"
    fluoroscopeAddress: str = "127.0.0.1:18945"
    pumpAddress: str = "127.0.0.1:18946"


# How a device looks by the level of its row: symbol, style. The colors stay apart for color-blind people, and no state
# is told by its color alone.
LOOKS = {
    "off": ("○", "background-color: #d9d9d9; color: #333333;"),
    "live": ("✔", "background-color: #006b4f; color: white;"),
    "check": ("▲", "background-color: #e69f00; color: black;"),
    "stopped": ("■", "background-color: #0052a3; color: white;"),
    "none": ("✘", "background-color: #a33000; color: white;"),
    "alarm": ("‼", "background-color: black; color: #ffd500;"),
}

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
        self._stopBar = None
        self._stopBarLabel = None
        self._shownEvents = 0

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
        for name in self.logic.faultNames():
            self.ui.faultComboBox.addItem(name)
        self.ui.folderPathLineEdit.currentPath = "~/Sacroplasty sessions"
        self.ui.stopButton.connect("pressed()", self.onStopButton)
        self.ui.connectButton.connect("clicked(bool)", self.onConnectButton)
        self.ui.disconnectButton.connect("clicked(bool)", self.onDisconnectButton)
        self.ui.reconnectButton.connect("clicked(bool)", self.onReconnectButton)
        self.ui.startSimulatorsButton.connect("clicked(bool)", self.onStartSimulatorsButton)
        self.ui.stopSimulatorsButton.connect("clicked(bool)", self.onStopSimulatorsButton)
        self.ui.askButton.connect("clicked(bool)", self.onAskButton)
        self.ui.recordButton.connect("clicked(bool)", self.onRecordButton)
        self.ui.replayButton.connect("clicked(bool)", self.onReplayButton)
        self.ui.sequencesButton.connect("clicked(bool)", self.onSequencesButton)
        self.ui.plusButton.connect("clicked(bool)", self.onPlusButton)
        self.ui.distortionPathLineEdit.connect("currentPathChanged(QString)", self.onDistortionPath)

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
        self.showStopBar(None)
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self._tableTimer.start()

    def exit(self):
        """Called each time the user opens a different module. The stop bar stays while a pump is connected."""
        if not self.logic.connected():
            self._tableTimer.stop()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed. Devices of the old case must not act on the new one."""
        self.logic.stopRecording()
        self.logic.stopSimulators()
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

    def attempt(self, action, done=""):
        """Do something, and say in the panel what is wrong if it cannot be done: no dialog in an operating room."""
        from sacroplasty.errors import SacroplastyError

        try:
            result = action()
        except SacroplastyError as error:
            self.ui.statusLabel.text = f"✘ {error}"
            return None
        finally:
            self.showDevices()
        self.ui.statusLabel.text = done
        return result

    def onStopButton(self):
        """Stop at the press, not at the release, and without a question."""
        if self.logic.stopPump():
            self.ui.statusLabel.text = _("■ Stop was sent to the pump.")
        else:
            self.ui.statusLabel.text = _("✘ There is no pump to stop: use the stop at the pump itself.")
        self.showDevices()

    def onConnectButton(self):
        parameters = self._parameterNode
        self.connectTo(parameters.trackerAddress, parameters.fluoroscopeAddress, parameters.pumpAddress)

    def connectTo(self, trackerAddress, fluoroscopeAddress, pumpAddress):
        self.attempt(lambda: self.logic.connectDevices(trackerAddress, fluoroscopeAddress, pumpAddress))
        if self.logic.connected():
            self._pollTimer.start()

    def onReconnectButton(self):
        """Begin all connections anew, as after a device was switched off and on."""
        self.attempt(self.logic.reconnectDevices)

    def onDisconnectButton(self, *unused):
        self.logic.disconnectDevices()
        if not self.logic.simulatorsRunning():
            self._pollTimer.stop()
        self.showDevices()

    def onStartSimulatorsButton(self):
        faults = {}
        if self.ui.faultComboBox.currentIndex > 0:
            device = ("tracker", "carm", "pump")[self.ui.faultDeviceComboBox.currentIndex]
            faults[device] = [self.ui.faultComboBox.currentText]
        self.attempt(
            lambda: self.logic.startSimulators(self.ui.patientCheckBox.checked, faults), _("Simulators are starting…")
        )
        if self.logic.simulatorsRunning():
            self._pollTimer.start()

    def onStopSimulatorsButton(self):
        self.logic.stopSimulators()
        self.onDisconnectButton()
        self.ui.statusLabel.text = _("Simulators are stopped.")

    def onAskButton(self):
        if not self.logic.ask(self.ui.askComboBox.currentIndex):
            self.ui.statusLabel.text = _("✘ No simulator listens yet.")

    def onRecordButton(self):
        if self.logic.recordedFile():
            self.ui.sessionPathLineEdit.currentPath = self.logic.recordedFile()
            self.logic.stopRecording()
            self.ui.statusLabel.text = _("The recording has ended.")
            self.showDevices()
        else:
            self.attempt(lambda: self.logic.startRecording(self.ui.folderPathLineEdit.currentPath))

    def onReplayButton(self):
        speed = (0.25, 1.0, 4.0)[self.ui.speedComboBox.currentIndex]
        self.attempt(lambda: self.logic.replay(self.ui.sessionPathLineEdit.currentPath, speed))
        if self.logic.connected():
            self._pollTimer.start()

    def onSequencesButton(self):
        path = self.ui.sessionPathLineEdit.currentPath
        self.attempt(lambda: self.logic.addSequences(path), _("The session stands in the scene; see module Sequences."))

    def onPlusButton(self):
        written = self.attempt(lambda: self.logic.exportPlus(self.ui.sessionPathLineEdit.currentPath))
        if written:
            self.ui.statusLabel.text = _("Written: {path}").format(path=written)

    def onDistortionPath(self, path):
        self.attempt(lambda: self.logic.useDistortion(path))

    def onPoll(self):
        """One turn of the links, and of whoever listens to them."""
        ready, problem = self.logic.pollSimulators()
        if problem:
            self.logic.stopSimulators()
            self.onDisconnectButton()
            self.ui.statusLabel.text = f"✘ {problem}"
            return
        if ready:
            self.connectTo(*ready)
            self.ui.askComboBox.clear()
            for text in self.logic.roomOrders():
                self.ui.askComboBox.addItem(text)
        for answer in self.logic.roomAnswers():
            self.ui.statusLabel.text = answer
        self.logic.tick()
        if not (self.logic.connected() or self.logic.simulatorsRunning()):
            self._pollTimer.stop()

    def showDevices(self):
        """The devices, large for who stands two meters away, in figures below. The symbol says what the color does."""
        rows = self.logic.rows()
        states = (self.ui.trackerStateLabel, self.ui.fluoroscopeStateLabel, self.ui.pumpStateLabel)
        reasons = (self.ui.trackerTextLabel, self.ui.fluoroscopeTextLabel, self.ui.pumpTextLabel)
        replaying = self.logic.replaying()
        for row, stateLabel, textLabel in zip(rows, states, reasons, strict=True):
            symbol, style = LOOKS[row.level]
            stateLabel.text = f"{symbol} {self.levelText(row.level)}"
            if style not in stateLabel.styleSheet:
                # A style that is set again is worked out again, and this runs five times a second.
                stateLabel.styleSheet = f"font-size: 22pt; font-weight: bold; padding: 2px 6px; {style}"
            textLabel.text = f"{_('REPLAY, not live')}: {row.text}" if replaying else row.text
        table = self.ui.devicesTable
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            texts = (
                row.role,
                row.address,
                f"{row.rate_hz:.0f}",
                f"{row.age_ms:.0f}" if row.age_ms < 1e6 else "–",
                f"{row.latency_ms:.0f}" if row.latency_ms >= 0 else "–",
                str(row.dropped),
                row.last_error,
            )
            for column, text in enumerate(texts):
                table.setItem(number, column, qt.QTableWidgetItem(text))
                table.item(number, column).setToolTip(text)
        self.ui.distortionLabel.text = self.logic.distortionText()
        self.showEvents()
        self.showStopBar(rows[2] if self.logic.connected() and not replaying else None)
        connected, simulating = self.logic.connected(), self.logic.simulatorsRunning()
        recorded = self.logic.recordedFile()
        self.ui.connectButton.enabled = not connected
        self.ui.disconnectButton.enabled = connected
        self.ui.reconnectButton.enabled = connected and not replaying
        self.ui.startSimulatorsButton.enabled = not simulating
        self.ui.stopSimulatorsButton.enabled = simulating
        self.ui.askButton.enabled = simulating
        self.ui.recordButton.enabled = bool(recorded) or (connected and not replaying)
        self.ui.recordButton.text = _("■ End the recording") if recorded else _("● Record")
        self.ui.recordingLabel.text = self.logic.recordingText()

    def levelText(self, level):
        """A state in a word."""
        return {
            "off": _("NOT CONNECTED"),
            "live": _("LIVE"),
            "check": _("CHECK"),
            "stopped": _("STOPPED"),
            "none": _("DO NOT USE"),
            "alarm": _("ALARM"),
        }[level]

    def showEvents(self):
        """What happened, the newest first."""
        count, texts = self.logic.newEvents(self._shownEvents)
        self._shownEvents = count
        for text in texts:
            self.ui.eventsListWidget.insertItem(0, text)
        while self.ui.eventsListWidget.count > 200:
            self.ui.eventsListWidget.takeItem(self.ui.eventsListWidget.count - 1)

    def showStopBar(self, pump):
        """A stop in Slicer's window itself, so that it is there whatever module is open; None to put it away."""
        mainWindow = slicer.util.mainWindow()
        if pump is None or pump.level == "off" or mainWindow is None:
            if self._stopBar is not None:
                if mainWindow is not None:
                    mainWindow.removeToolBar(self._stopBar)
                self._stopBar.deleteLater()
                self._stopBar = self._stopBarLabel = None
            return
        if self._stopBar is None:
            self._stopBar = mainWindow.addToolBar(_("Sacroplasty stop"))
            self._stopBar.objectName = "SacroplastyStopBar"
            button = qt.QPushButton(_("STOP THE PUMP"))
            button.styleSheet = self.ui.stopButton.styleSheet
            button.connect("pressed()", self.onStopButton)
            self._stopBar.addWidget(button)
            self._stopBarLabel = qt.QLabel()
            self._stopBar.addWidget(self._stopBarLabel)
        symbol, style = LOOKS[pump.level]
        self._stopBarLabel.text = f"{symbol} {_('Pump')}: {pump.text}"
        if style not in self._stopBarLabel.styleSheet:
            self._stopBarLabel.styleSheet = f"font-size: 16pt; font-weight: bold; padding: 4px 10px; {style}"


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
        self._place = None
        self._room = None
        self._orders = []
        self._listeners = []

    def getParameterNode(self):
        return SacroplastyDevicesParameterNode(super().getParameterNode())

    def desk(self):
        """The DeviceDesk of this Slicer."""
        if self._desk is None:
            from sacroplasty.scene.devices import DeviceDesk

            self._desk = DeviceDesk(slicer.mrmlScene, uuid.uuid4().hex)
        return self._desk

    def useDistortion(self, path):
        """Take a calibrated distortion out of all frames; an empty path for none."""
        self.desk().use_distortion(Path(path).expanduser() if path else None)

    def distortionText(self):
        """What is done about the intensifier's distortion."""
        distortion = self.desk().distortion
        if distortion is None:
            return _("Pictures are shown as they come.")
        return _("✔ Distortion is taken out, by {beads} beads; {rest} pixels remain. Learn the views anew.").format(
            beads=distortion.beads, rest=f"{distortion.rest_pixels:.2f}"
        )

    def connectDevices(self, trackerAddress, fluoroscopeAddress, pumpAddress):
        addresses = {"Tracker": trackerAddress, "Fluoroscope": fluoroscopeAddress, "Pump": pumpAddress}
        self.desk().connect(addresses)

    def reconnectDevices(self):
        self.desk().reconnect()

    def disconnectDevices(self):
        if self._desk is not None:
            self._desk.disconnect()

    def connected(self):
        return self._desk is not None and self._desk.connected

    def replaying(self):
        return self._desk is not None and self._desk.replaying

    def rows(self):
        """The state of every device; see sacroplasty.scene.devices.DeviceRow."""
        return self.desk().rows(time.monotonic())

    def newEvents(self, known):
        """How many events there have been, and in words those after the first `known` of them."""
        events = list(self.desk().events)
        count = self.desk().event_count
        texts = []
        for event in events[max(0, len(events) - (count - known)) :]:
            at = time.strftime("%H:%M:%S", time.localtime(event.unix_s))
            texts.append(f"{at}  {'‼ ' if event.alarm else ''}{event.role}: {event.text}")
        return count, texts

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
        """One turn: look, decide, tell.

        Devices are heard before the decisions, or what waited while the last ones were made would count as old, and
        again after them, so that orders and heartbeat go out at once. A listener that fails stops the pump and is not
        called again until it is added anew.
        """
        self.poll()
        for listener in list(self._listeners):
            try:
                listener(time.monotonic())
            except Exception:
                self.removeListener(listener)
                self.desk().stop_pump(time.monotonic())
                self.poll()
                raise
        if self._listeners:
            self.poll()

    def poll(self):
        """Let all links receive and send."""
        self.desk().poll(time.monotonic(), time.time())

    def startRecording(self, folder):
        """Begin to record all that passes the connections, into a new file of this folder."""
        name = time.strftime("%Y-%m-%d_%H%M%S") + ".session"
        self.desk().record(Path(folder).expanduser() / name, time.monotonic(), time.time())

    def stopRecording(self):
        self.desk().stop_recording()

    def recordedFile(self):
        """The file that is being recorded; empty when none is."""
        recorder = self._desk.recorder if self._desk is not None else None
        return str(recorder.path) if recorder is not None else ""

    def recordingText(self):
        """The recording in a line."""
        recorder = self._desk.recorder if self._desk is not None else None
        if recorder is None:
            return ""
        size = _("{size:.1f} MB in {path}").format(size=recorder.written_bytes / 1e6, path=recorder.path)
        return f"✘ {recorder.problem}. {size}" if recorder.problem else f"● {size}"

    def openSession(self, path):
        """A recorded session, or a recording of the Plus toolkit."""
        if path.endswith(".mha"):
            from sacroplasty.navigation.sessions import session_of_plus

            return session_of_plus(path)
        from sacroplasty.devices.session_file import read_session

        return read_session(path)

    def replay(self, path, speed):
        self.desk().replay(self.openSession(path), time.monotonic(), speed)

    def addSequences(self, path):
        """Add a session to the scene as sequences with a browser."""
        from sacroplasty.scene.sessions import add_session

        return add_session(slicer.mrmlScene, self.openSession(path))

    def exportPlus(self, path):
        """Write a session beside its file as a sequence of the Plus toolkit; returns the path."""
        from sacroplasty.navigation.sessions import write_plus

        return str(write_plus(self.openSession(path), Path(path).with_suffix(".igs.mha")))

    def faultNames(self):
        """Defects that the simulators can have."""
        from sacroplasty.simulation.faults import FAULTS

        return list(FAULTS)

    def startSimulators(self, patient=True, faults=None):
        """Start tracker, C-arm and pump as a process: around the patient of the scene, if there is a CT."""
        from sacroplasty.scene.simulators import SimulatorProcess

        self.stopSimulators()
        self._simulatorsConnected = False
        self._place = tempfile.TemporaryDirectory(prefix="sacroplasty-world-")
        world = self.writeWorld(self._place.name) if patient else None
        self._simulators = SimulatorProcess(shutil.which("PythonSlicer") or sys.executable, world, faults)

    def writeWorld(self, folder):
        """The CT, anatomy and plan of the scene as the world of the simulators; None without a CT."""
        from sacroplasty.anatomy.landmarks import touchable
        from sacroplasty.scene import anatomy, nodes, planning
        from sacroplasty.simulation.patient import write_patient_world

        ct, segmentation = anatomy.segmented_ct(slicer.mrmlScene)
        if ct is None:
            return None
        found = anatomy.anatomy_of(slicer.mrmlScene, segmentation, ct) if segmentation else None
        plan = planning.plan_of(slicer.mrmlScene)
        targets = {side: one.target for side, one in planning.chosen(plan).items()} if plan and found else {}
        landmarks = touchable(found.landmarks) if found else []
        return write_patient_world(Path(folder), nodes.volume_of(ct), found, targets, landmarks, seed=0)

    def stopSimulators(self):
        if self._room is not None:
            self._room.close()
        if self._simulators is not None:
            self._simulators.stop()
        if self._place is not None:
            self._place.cleanup()
        self._room = self._simulators = self._place = None

    def simulatorsRunning(self):
        return self._simulators is not None and self._simulators.running

    def pollSimulators(self):
        """Addresses of tracker, C-arm and pump once all are ready (told once), and what went wrong."""
        if self._simulators is None:
            return None, ""
        self._simulators.poll()
        if self._room is not None:
            self._room.poll(time.monotonic())
        ports = self._simulators.ports
        if self._simulatorsConnected or not {"tracker", "carm", "pump"} <= set(ports):
            return None, self._simulators.problem
        from sacroplasty.scene.simulators import SimulatedRoom, room_orders

        self._simulatorsConnected = True
        self._room = SimulatedRoom(ports)
        self._orders = room_orders(slicer.mrmlScene)
        return tuple(f"127.0.0.1:{ports[role]}" for role in ("tracker", "carm", "pump")), self._simulators.problem

    def roomOrders(self):
        """What simulated hands and C-arm can be asked for, in words."""
        return [order.text for order in self._orders]

    def ask(self, number):
        """Ask for one of `roomOrders`; False when nobody listens."""
        return self._room is not None and 0 <= number < len(self._orders) and self._room.ask(self._orders[number])

    def roomAnswers(self):
        """What simulated hands and C-arm said since the last call."""
        return self._room.take_answers() if self._room is not None else []

    def close(self):
        """End everything, as when Slicer closes."""
        if self._desk is not None:
            self._desk.stop_recording()
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
        logic.connectDevices("127.0.0.1:9", "", "127.0.0.1:9")
        logic.tick()
        self.assertTrue(logic.connected())
        self.assertEqual([row.ok for row in logic.rows()], [False, False, False])
        logic.close()
        self.assertFalse(logic.connected())
        self.delayDisplay(_("Test passed"))
