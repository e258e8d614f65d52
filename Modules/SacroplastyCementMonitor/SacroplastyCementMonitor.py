import importlib.util
import os
import sys
import time
from pathlib import Path
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


class Canceled(Exception):
    """The person canceled what takes long."""


# Background of the alarm bar by priority, bright and dark half of its flashing. Words and symbols say the same.
ALARM_LOOKS = {
    "high": ("‼", "background-color: #d00000; color: white;", "background-color: #5a0000; color: white;"),
    "medium": ("!", "background-color: #ffd500; color: black;", "background-color: #8a7300; color: white;"),
    "low": ("i", "background-color: #7fdfff; color: black;", "background-color: #7fdfff; color: black;"),
}

# Lines of the curves: volume, pressure, flow, plan and grid; cement that is seen, and its error.
CURVE_COLORS = {
    "volume": "#0052a3",
    "pressure": "#b05a00",
    "flow": "#00705a",
    "plan": "#888888",
    "grid": "#c8c8c8",
    "seen": "#b3007d",
    "error": "#f0c8e2",
}

# By level of the monitor: symbol, and the priority whose color it has (see ALARM_LOOKS). Blind calls nobody before the
# injection: then it is gray.
LEVEL_PRIORITY = {"watch": "low", "warning": "medium", "leak": "high"}
NO_LEAK_LOOK, RESTING_LOOK = "background-color: #1b7f3b; color: white;", "background-color: #5a5a5a; color: white;"

# Height of the time scale, and widths in the panel of a picture, a dial and the curves [pixels].
SCALE_HEIGHT, PICTURE_WIDTH, DIAL_SIZE, CURVE_SIZE = 14, 232, 96, (440, 132)

#
# SacroplastyCementMonitorParameterNode
#


@parameterNodeWrapper
class SacroplastyCementMonitorParameterNode:
    """
    temperatureC - Temperature of the room in which the cement is kept.
    byHand, continuous, stepVolumeMl, waitS, rateMlS, lowestConcentricity - How cement is given.
    subtraction, roadMap, growth, structures - What the pictures of the monitor show.
    estimate - Whether slices and 3D views show where the cement lies by the views.
    """

    temperatureC: Annotated[float, WithinRange(15.0, 30.0)] = 22.0
    byHand: bool = False
    continuous: bool = False
    stepVolumeMl: Annotated[float, WithinRange(0.2, 2.0)] = 1.0
    waitS: Annotated[float, WithinRange(0.0, 120.0)] = 20.0
    rateMlS: Annotated[float, WithinRange(0.01, 0.2)] = 0.05
    lowestConcentricity: Annotated[float, WithinRange(0.0, 1.0)] = 0.3
    subtraction: bool = False
    roadMap: bool = False
    growth: bool = True
    structures: bool = True
    estimate: bool = True


#
# What the monitor says, in words
#


def routeText(route):
    """`foramen_s1_left` as a person reads it; what could not be placed says so."""
    from sacroplasty.scene.anatomy import readable

    return {
        "unknown": _("place unknown"),
        "venous": _("a vein"),
        "bone": _("bone outside the plan"),
        "missing": _("cement that no view shows"),
        "presacral": _("in front of or above the sacrum"),
        "posterior": _("behind the sacrum, along the trocar"),
    }.get(route) or readable(route)


def shortText(name):
    """A structure's name beside its outline: S1 L."""
    from sacroplasty.scene.anatomy import readable

    return readable(name.replace("foramen_", "").replace("sacral_", "").replace("_left", " L").replace("_right", " R"))


def placeText(fromTip):
    """Where something lies from the trocar's tip, in the patient's directions."""
    distance = sum(float(part) ** 2 for part in fromTip) ** 0.5
    ways = ((_("right"), _("left")), (_("front"), _("back")), (_("head"), _("feet")))
    directions = [
        _("{distance} mm to the {way}").format(distance=f"{abs(part):.0f}", way=way[0] if part > 0 else way[1])
        for part, way in zip(fromTip, ways, strict=True)
        if abs(part) >= 2.0
    ]
    return _("{distance} mm from the tip ({directions})").format(
        distance=f"{distance:.0f}", directions=", ".join(directions) or _("at it")
    )


def adviceText(readout, byHand):
    """Where it is, and what to do about it; on a leak see the documentation for the rules' source."""
    place = placeText(readout.from_tip_ras) + "\n" if readout.from_tip_ras is not None else ""
    likely = _("Predicted before as the likeliest way out: {way}.").format(way=readout.likely_way) + "\n"
    return place + (likely if readout.likely_way else "") + whatToDo(readout, byHand)


def whatToDo(readout, byHand):
    if readout.level == "leak":
        texts = [_("STOP INJECTING.") if byHand else _("The pump is stopped.")]
        if readout.event is not None and ("foramen" in readout.event.route or "canal" in readout.event.route):
            texts.append(_("Ask for movement and feeling of the legs."))
        if readout.event is not None and readout.event.route == "venous":
            texts.append(_("Look at circulation and breathing."))
        texts.append(
            _("Look at both views, wait 1-2 min, learn the views anew. After a second leak leave this trocar.")
        )
        return " ".join(texts)
    return {
        "unjudged": _("Nothing tells whether cement leaks: the pump stays stopped. Watch the pictures yourself."),
        "warning": _("Look at both views before the next step."),
        "watch": _("It may be in the bone beside it: look at both views."),
        "blind": _("Nobody watches: inject nothing. Look at the C-arm; after anything was moved, learn the views."),
    }.get(readout.level, "")


def learnedText(readout):
    """That the views were learned, and how little cement each would show."""
    texts = [_("✔ The views were learned.")]
    texts += [
        _("View {number} would show {volume} mL at the tip.").format(
            number=readout.planes.index(plane) + 1, volume=f"{smallest:.2f}"
        )
        for plane, smallest in readout.smallest_ml.items()
    ]
    return " ".join(texts)


def unknownText(what):
    """What the monitor cannot tell, and why."""
    return {
        "not learned": _("Everything: the views were not learned."),
        "no zones": _("Whether cement leaks: it is not known where it belongs."),
        "no geometry": _("Where cement lies: a view comes without the pose of its C-arm."),
        "one view": _("How deep cement lies: there is only one view."),
        "unsure volume": _("The volume that is seen: not calibrated by the pump yet."),
        "missing cement": _("Where the rest is: cement was given that no view shows (out of the picture, vein, line)."),
    }[what]


def markText(marking):
    """What a person is to click on next."""
    where = {
        "tip": _("Click on the trocar's tip in view {number}."),
        "shaft": _("Stylet drawn? For the scale click on the shaft far up in view {number}, or press Mark again."),
    }[marking.part]
    return where.format(number=marking.number)


def levelTexts(level, event):
    """Symbol, word and route of a level."""
    word = {
        "none": _("✔ NO LEAK SEEN"),
        "unjudged": _("? LEAKS NOT JUDGED"),
        "watch": _("◔ WATCH"),
        "warning": _("⚠ WARNING"),
        "leak": _("✘ LEAK"),
        "blind": _("✘ MONITOR BLIND"),
    }[level]
    return f"{word}: {routeText(event.route)}" if event is not None else word


def levelLook(level, alarms):
    """The colors of a level are those of its alarm."""
    if level == "none":
        return NO_LEAK_LOOK
    if level in ("blind", "unjudged") and not alarms.active:
        return RESTING_LOOK
    return ALARM_LOOKS[LEVEL_PRIORITY.get(level, "medium")][1]


#
# Drawing
#


def picturePixmap(picture, width):
    """An array (rows, columns, 3) as a pixmap of this width."""
    from sacroplasty.cement.picture import ppm

    pixmap = qt.QPixmap()
    pixmap.loadFromData(ppm(picture))
    return pixmap.scaled(width, round(width * picture.shape[0] / picture.shape[1]), qt.Qt.IgnoreAspectRatio,
                         qt.Qt.SmoothTransformation)  # fmt: skip


def drawNames(pixmap, places, height):
    """Names beside the outlines, with a dark shadow; places are shares of the pixmap's size."""
    painter = qt.QPainter()
    painter.begin(pixmap)
    font = painter.font()
    font.setPixelSize(height)
    painter.setFont(font)
    for name, (across, down) in places:
        text = shortText(name)
        x = min(
            max(round(across * pixmap.width()) - len(text) * height // 4, 2), pixmap.width() - len(text) * height // 2
        )
        y = max(round(down * pixmap.height()) - 3, height)
        for color, shift in (("black", 1), ("white", 0)):
            setPen(painter, color, 1)
            painter.drawText(x + shift, y + shift, text)
    painter.end()


def drawPlot(painter, axes, title, color):
    setPen(painter, CURVE_COLORS["grid"], 1)
    painter.drawLine(axes.left, axes.bottom, axes.right, axes.bottom)
    painter.drawLine(axes.left, axes.top, axes.left, axes.bottom)
    painter.drawLine(axes.left, axes.top, axes.right, axes.top)
    setPen(painter, CURVE_COLORS[color], 1)
    painter.drawText(axes.left, axes.top - 8, title)


def drawLines(painter, lines, color, width):
    setPen(painter, CURVE_COLORS[color], width)
    for (x1, y1), (x2, y2) in lines:
        painter.drawLine(x1, y1, x2, y2)


def setPen(painter, color, width):
    pen = qt.QPen()
    pen.setColor(qt.QColor(color))
    pen.setWidth(width)
    painter.setPen(pen)


class PictureClicks(qt.QObject):
    """Tells where a person clicks into the pictures of the two views."""

    def __init__(self, labels, onClick):
        """
        labels - Those that show the pictures, each in its middle.
        onClick - Function of the view's number and the place, as shares of the picture's width and height.
        """
        super().__init__()
        self._labels = labels
        self._onClick = onClick
        self.sizes = {}
        for label in labels:
            label.installEventFilter(self)

    def eventFilter(self, watched, event):
        """Called by Qt; true for an event that nobody else is to get."""
        if event.type() != qt.QEvent.MouseButtonPress:
            return False
        for number, label in enumerate(self._labels):
            if label == watched and number in self.sizes:
                width, height = self.sizes[number]
                across = (event.pos().x() - (label.width - width) / 2 + 0.5) / width
                down = (event.pos().y() - (label.height - height) / 2 + 0.5) / height
                if 0 <= across < 1 and 0 <= down < 1:
                    self._onClick(number, across, down)
        return False


class MonitorReadout:
    """Live pictures, figures and curves of the monitor: in the panel, and larger on a screen of its own."""

    def __init__(self, logic, path, scale=1.0):
        """
        scale - Of pictures and digits, against those of the module panel.
        """
        self.logic = logic
        self.widget = slicer.util.loadUI(path)
        self.parts = slicer.util.childWidgetVariables(self.widget)
        self._scale = scale
        self._drawn = {}
        self._styles = {}
        self._curveAt = 0.0
        self.clicks = PictureClicks([self._part("picture", number) for number in range(2)], self._onClick)
        for label in self._labels():
            if "pt;" in label.styleSheet:
                points, rest = label.styleSheet.removeprefix("font-size: ").split("pt;", 1)
                label.styleSheet = f"font-size: {round(float(points) * (1 + scale) / 2)}pt;{rest}"
        onScreen = scale > 1
        # In the panel these stand above both tabs.
        for label in (self.parts.researchLabel, self.parts.bannerLabel, self.parts.adviceLabel):
            label.visible = onScreen
        if onScreen:
            # A screen is wide: the figures stand beside the pictures.
            self.widget.layout().setDirection(qt.QVBoxLayout.LeftToRight)
        self.parts.replayLabel.visible = False
        self._showScale()

    def _labels(self):
        return [part for name, part in vars(self.parts).items() if name.endswith("Label")]

    def show(self, readout, alarms, look, byHand):
        """Show a sacroplasty.scene.monitor_page.MonitorReadout."""
        texts = {
            "banner": levelTexts(readout.level, readout.event) + (f"\n{readout.text}" if readout.text else ""),
            "advice": adviceText(readout, byHand),
            **self._figures(readout),
            "unknown": "\n".join(f"? {one}" for one in (*map(unknownText, readout.unknown), *readout.cannot_tell)),
        }
        for name, text in texts.items():
            getattr(self.parts, f"{name}Label").text = text
        self._style("banner", f"font-size: {round(11 * (1 + self._scale))}pt; font-weight: bold; padding: 6px; "
                              f"{levelLook(readout.level, alarms)}")  # fmt: skip
        self._showReplay(readout.replayed)
        for number in range(2):
            self._showView(number, readout, look)
        if time.monotonic() - self._curveAt > 0.5:
            self._curveAt = time.monotonic()
            self._drawCurve()

    def blank(self, reason):
        """Nothing that looks as if it were live."""
        self.parts.bannerLabel.text = reason
        self._style("banner", f"font-size: {round(11 * (1 + self._scale))}pt; font-weight: bold; {RESTING_LOOK}")
        self.parts.adviceLabel.text = self.parts.unknownLabel.text = ""
        self.parts.replayLabel.visible = False
        for number in range(2):
            for name in ("picture", "dial"):
                self._part(name, number).clear()
            self._part("picture", number).text = "–"
        for name in ("seen", "missing", "evenness", "nearest", "speed", "third"):
            self._part(name).text = "–"
        self._drawn = {}

    def _part(self, name, number=""):
        return getattr(self.parts, f"{name}{number}Label")

    def _style(self, name, style):
        """Set a label's style when it has changed: Qt works it out anew each time."""
        if self._styles.get(name) != style:
            self._styles[name] = style
            self._part(name).styleSheet = style

    def _figures(self, readout):
        def figure(value, digits=1):
            # A zero has no sign.
            return "–" if value != value else f"{round(value, digits) + 0.0:.{digits}f}"

        measures = readout.measures
        nearest = next(iter(measures.distance_mm.items()), None) if measures else None
        third = measures.anterior_third_filled if measures else float("nan")
        return {
            "seen": f"{figure(readout.volume_ml)} ± {figure(readout.volume_sd_ml)}",
            "missing": f"{figure(measures.missing_ml)} ± {figure(measures.missing_ml_sd)}" if measures else "–",
            "evenness": figure(readout.concentricity, 2),
            "nearest": figure(nearest[1], 0) if nearest else "–",
            "nearestCaption": _("{structure} (mm)").format(structure=routeText(nearest[0])) if nearest
                              else _("Nearest (mm)"),
            "speed": figure(measures.front_mm_s, 2) if measures else "–",
            "third": "–" if third != third else f"{100 * third:.0f} %",
        }  # fmt: skip

    def _showReplay(self, replayed):
        self.parts.replayLabel.visible = replayed is not None
        if replayed is not None:
            self.parts.replayLabel.text = _("{symbol} REPLAY, NOT LIVE: {time}, {seconds} s before the freeze").format(
                symbol="▶" if replayed.playing else "❚❚",
                time=replayed.clock_text,
                seconds=f"{replayed.before_s:.1f}",
            )

    def _showView(self, number, readout, look):
        plane = readout.planes[number] if number < len(readout.planes) else None
        caption, picture = self._part(f"view{number}Caption"), self._part("picture", number)
        fault, dial = self._part("fault", number), self._part("dial", number)
        if plane is None:
            caption.text = _("View {number}").format(number=number + 1)
            picture.text = _("no picture")
            dial.clear()
            fault.visible = False
            self._drawn.pop(number, None)
            self.clicks.sizes.pop(number, None)
            return
        angles = self.logic.viewText(plane)
        caption.text = _("View {number}: {angles}").format(number=number + 1, angles=angles or _("pose unknown"))
        why = readout.faults.get(plane, "")
        fault.text = f"✘ {why}" if why else ""
        fault.visible = bool(why)
        key = self.logic.pictureKey(plane, look)
        if self._drawn.get(number) == key:
            return
        self._drawn[number] = key
        self.clicks.sizes[number] = self._drawView(plane, picture, look)
        view = readout.measures.views.get(plane) if readout.measures else None
        self._drawDial(dial, view)

    def _drawView(self, plane, label, look):
        """Returns width and height of what is shown."""
        array = self.logic.picture(plane, look)
        if array is None:
            label.clear()
            return 0, 0
        pixmap = picturePixmap(array, round(PICTURE_WIDTH * self._scale))
        if look.structures:
            height = round(10 * (1 + self._scale) / 2)
            places = self.logic.outlinePlaces(plane)
            # In a small picture only what must be spared has a name.
            wanted = ("foramen", "sacral_canal") if self._scale == 1 else ("",)
            drawNames(pixmap, [place for place in places if place[0].startswith(wanted)], height)
        label.setMinimumSize(pixmap.width(), pixmap.height())
        label.setPixmap(pixmap)
        return pixmap.width(), pixmap.height()

    def _onClick(self, number, across, down):
        planes = self.logic.monitorReadout().planes
        if number < len(planes):
            self.logic.mark(planes[number], across, down)

    def _drawDial(self, label, view):
        from sacroplasty.cement.dial import front_dial

        size = round(DIAL_SIZE * (1 + self._scale) / 2)
        label.setPixmap(picturePixmap(front_dial(view.front_mm if view else None, size), size))

    def _showScale(self):
        from sacroplasty.cement.picture import time_scale

        width = round(PICTURE_WIDTH * self._scale)
        self.parts.scaleLabel.setPixmap(picturePixmap(time_scale(width, SCALE_HEIGHT), width))

    def _drawCurve(self):
        """Cement given and cement seen over time, with the error of what is seen as a band."""
        from sacroplasty.procedure.injection_curves import axes_of

        points = self.logic.curve()
        width, height = (round(size * (1 + self._scale) / 2) for size in CURVE_SIZE)
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor("white"))
        painter = qt.QPainter()
        painter.begin(pixmap)
        textHeight = round(11 * (1 + self._scale) / 2)
        font = painter.font()
        font.setPixelSize(textHeight)
        painter.setFont(font)
        times = [point.time_s for point in points]
        pump, seen = [point.pump_ml for point in points], [point.image_ml for point in points]
        most = [*pump, *(point.image_ml + point.image_sd_ml for point in points)]
        axes = axes_of(points, most, 1.0, (6, textHeight + 14, width - 6, height - 8))
        drawPlot(painter, axes, _("mL, up to {value:g}").format(value=axes.highest), "plan")
        band = [
            (
                axes.at(point.time_s, point.image_ml - point.image_sd_ml),
                axes.at(point.time_s, point.image_ml + point.image_sd_ml),
            )
            for point in points
            if point.image_ml == point.image_ml
        ]
        # The bars of neighboring points touch each other.
        width_s = max(axes.end_s - axes.begin_s, 1.0)
        drawLines(painter, band, "error", 2 + round(0.25 * (axes.right - axes.left) / width_s))
        drawLines(painter, axes.lines(times, seen), "seen", 3)
        drawLines(painter, axes.lines(times, pump), "volume", 2)
        for color, text, place in (("volume", _("— given"), 0.45), ("seen", _("━ seen ± error"), 0.7)):
            setPen(painter, CURVE_COLORS[color], 1)
            painter.drawText(round(place * width), axes.top - 8, text)
        painter.end()
        self.parts.curveLabel.setPixmap(pixmap)


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
        self._shortcuts = []
        self._predicting = False
        self._shownAlarm = ""
        self._soundedUntil = 0.0
        self._drawnAt = 0.0
        self._readouts = []
        self._screen = None

    def setup(self):
        """Called when the user opens the module the first time and the widget is initialized."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SacroplastyCementMonitor.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SacroplastyCementMonitorLogic()

        self._readouts = [MonitorReadout(self.logic, self.resourcePath("UI/MonitorReadout.ui"))]
        self.ui.readoutFrame.layout().addWidget(self._readouts[0].widget)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)

        self.ui.journalPathLineEdit.currentPath = self.logic.DEFAULT_JOURNALS
        for widget in (
            self.ui.alarmLabel,
            self.ui.pauseSoundButton,
            self.ui.earlierFrame,
            self.ui.instructionLabel,
            self.ui.byHandFrame,
            self.ui.withdrawingFrame,
            self.ui.noteFrame,
            self.ui.adviceLabel,
            self.ui.referenceProgressBar,
            self.ui.liveButton,
            self.ui.markButton,
            self.ui.markLabel,
        ):
            widget.visible = False

        self.ui.stopButton.connect("pressed()", self.onStopButton)
        self.ui.pauseSoundButton.connect("clicked(bool)", self.onPauseSoundButton)
        self.ui.soundButton.connect("clicked(bool)", self.onSoundButton)
        self.ui.mixButton.connect("clicked(bool)", self.onMixButton)
        self.ui.learnButton.connect("clicked(bool)", self.onLearnButton)
        self.ui.spreadButton.connect("clicked(bool)", self.onSpreadButton)
        self.ui.armButton.connect("clicked(bool)", self.onArmButton)
        self.ui.injectButton.connect("clicked(bool)", self.onInjectButton)
        self.ui.leftRadioButton.connect("clicked(bool)", lambda checked=False: self.onSideChosen("left"))
        self.ui.rightRadioButton.connect("clicked(bool)", lambda checked=False: self.onSideChosen("right"))
        self.ui.goOnButton.connect("clicked(bool)", lambda checked=False: self.logic.ask("continue"))
        self.ui.finishButton.connect("clicked(bool)", lambda checked=False: self.logic.ask("finish"))
        self.ui.withdrawButton.connect("clicked(bool)", lambda checked=False: self.logic.ask("withdraw"))
        self.ui.backButton.connect("clicked(bool)", self.onBackButton)
        self.ui.notMovedButton.connect(
            "clicked(bool)", lambda checked=False: self.logic.ask("withdrawn", withdrawn_mm=0.0)
        )
        self.ui.abortButton.connect("pressed()", lambda: self.logic.ask("abort"))
        self.ui.noteButton.connect("clicked(bool)", self.onNoteButton)
        self.ui.noteLineEdit.connect("returnPressed()", self.onNoteButton)
        self.ui.givenButton.connect("clicked(bool)", self.onGivenButton)
        self.ui.techniqueButton.connect("clicked(bool)", self.onTechniqueButton)
        self.ui.takeUpButton.connect("clicked(bool)", self.onTakeUpButton)
        self.ui.leaveEarlierButton.connect("clicked(bool)", self.onLeaveEarlierButton)
        self.ui.journalPathLineEdit.connect("currentPathChanged(QString)", self.onJournalFolder)
        self.ui.withdrawnButton.connect("clicked(bool)", lambda checked=False: self.onWithdrawn(True))
        self.ui.tailButton.connect("clicked(bool)", lambda checked=False: self.onWithdrawn(False))

        self.ui.freezeButton.connect("clicked(bool)", lambda checked=False: self.show(self.logic.freeze))
        self.ui.replayButton.connect("clicked(bool)", lambda checked=False: self.show(self.logic.replay))
        self.ui.liveButton.connect("clicked(bool)", lambda checked=False: self.show(self.logic.goLive))
        self.ui.replaySlider.connect("valueChanged(int)", self.onReplaySlider)
        self.ui.subtractionButton.connect("toggled(bool)", self.onSubtractionButton)
        self.ui.roadMapButton.connect("toggled(bool)", self.onRoadMapButton)
        self.ui.acknowledgeButton.connect("clicked(bool)", lambda checked=False: self.show(self.logic.acknowledgeLeak))
        self.ui.snapshotButton.connect("clicked(bool)", self.onSnapshotButton)
        self.ui.markButton.connect("toggled(bool)", self.onMarkButton)
        self.ui.referenceButton.connect("clicked(bool)", self.onReferenceButton)
        self.ui.screenButton.connect("toggled(bool)", self.onScreenButton)
        self.ui.pageTabWidget.connect("currentChanged(int)", lambda index: self.showReadout())

        self._timer = qt.QTimer()
        self._timer.setInterval(100)
        self._timer.connect("timeout()", self.showReadout)

        self.initializeParameterNode()

    def cleanup(self):
        """Called when the application closes and the module widget is destroyed."""
        self._timer.stop()
        self.ui.screenButton.checked = False
        self.removeShortcuts()
        self.logic.close()
        self.setParameterNode(None)
        self.removeObservers()
        self._readouts = []

    def enter(self):
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.addShortcuts()
        self._timer.start()

    def exit(self):
        """Called each time the user opens a different module. Pictures end with it, on the large screen too."""
        self._timer.stop()
        self.removeShortcuts()
        self.setParameterNode(None)
        self.blank(_("NOT LIVE: the module was left"))

    def blank(self, reason):
        """Nothing on the monitor's page that looks as if it were live."""
        for readout in self._readouts:
            readout.blank(reason)

    def addShortcuts(self):
        """Esc and Space stop, whatever has the focus; only in a text field Space is a space."""
        self.removeShortcuts()
        for key in ("Esc", "Space"):
            shortcut = qt.QShortcut(slicer.util.mainWindow() or self.parent)
            shortcut.setKey(qt.QKeySequence(key))
            shortcut.activated.connect(self.onStopButton)
            # Two shortcuts on one key are ambiguous; then too it is a stop.
            shortcut.activatedAmbiguously.connect(self.onStopButton)
            self._shortcuts.append(shortcut)

    def removeShortcuts(self):
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._shortcuts = []

    def onSceneStartClose(self, caller, event):
        """Called just before the scene is closed."""
        self.logic.close()
        self.setParameterNode(None)
        self.blank(_("NOT LIVE: the case was closed"))

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

    def onPauseSoundButton(self):
        self.logic.pauseSound()
        self.showReadout()

    def onSoundButton(self):
        """Let the pattern of a high-priority alarm be heard once."""
        from sacroplasty.navigation.alarms import PULSES_S

        for pulse in PULSES_S["high"]:
            qt.QTimer.singleShot(int(1000 * pulse), qt.QApplication.beep)

    def onMixButton(self):
        self.logic.mix()
        self.ui.cementCollapsibleButton.collapsed = True
        self.showReadout()

    def onLearnButton(self):
        self.refusing(self.logic.learnViews)

    def onSpreadButton(self):
        """Predict, with the progress on the button itself; a second press cancels."""
        if self._predicting:
            self._predicting = False
            return
        text = self.ui.spreadButton.text
        self._predicting = True
        try:
            self.refusing(self.logic.predictSpread, self.showPrediction)
        except Canceled:
            self.ui.refusalLabel.text = _("The prediction was canceled.")
        finally:
            self._predicting = False
            self.ui.spreadButton.text = text

    def showPrediction(self, share):
        """Called with the share done; the devices are served meanwhile."""
        self.ui.spreadButton.text = _("Predicting, {share:.0f} %: press to cancel").format(share=100 * share)
        slicer.app.processEvents()
        if not self._predicting:
            raise Canceled

    def onArmButton(self):
        self.logic.arm()
        self.showReadout()

    def onInjectButton(self):
        """With a pump the button is held, see initializeParameterNode; by hand it says that a person begins."""
        if self.logic.isByHand():
            self.logic.ask("start")

    def onBackButton(self):
        self.logic.ask("withdrawn", withdrawn_mm=self.ui.backSpinBox.value)

    def onNoteButton(self):
        if self.ui.noteLineEdit.text.strip():
            self.logic.ask("abort", note=self.ui.noteLineEdit.text)
            self.ui.noteLineEdit.text = ""

    def onGivenButton(self):
        self.refusing(self.logic.enterVolume, self.ui.givenSpinBox.value)

    def onTechniqueButton(self):
        if self.refusing(self.logic.setTechnique, self._parameterNode, self.ui.meterLineEdit.text):
            self.ui.techniqueCollapsibleButton.collapsed = True

    def onTakeUpButton(self):
        self.logic.takeUp()
        self.showReadout()

    def onLeaveEarlierButton(self):
        self.logic.leaveEarlier()
        self.showReadout()

    def onJournalFolder(self, path):
        self.logic.keepJournals(path)
        self.showReadout()

    def onWithdrawn(self, withoutTail):
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.recordWithdrawal(withoutTail)
            self.ui.withdrawalLabel.text = _("✔ Recorded.")
        except SacroplastyError as error:
            self.ui.withdrawalLabel.text = f"✘ {error}"

    # Monitor

    def show(self, action):
        """Do something with the pictures, and show it."""
        action()
        self.showReadout()

    def look(self):
        """What the pictures are to show."""
        parameters = self._parameterNode
        return self.logic.look(parameters.subtraction, parameters.roadMap, parameters.growth, parameters.structures)

    def onReplaySlider(self, tenths):
        self.logic.showMoment(-tenths / 10)
        self.showReadout()

    def onSubtractionButton(self, checked):
        self._parameterNode.subtraction = checked
        if checked:
            self._parameterNode.roadMap = False
        self.showReadout()

    def onRoadMapButton(self, checked):
        self._parameterNode.roadMap = checked
        if checked:
            self._parameterNode.subtraction = False
            self.logic.takeRoadMap()
        self.showReadout()

    def onSnapshotButton(self):
        from sacroplasty.errors import SacroplastyError

        try:
            taken = self.logic.snapshot(self.look())
            self.ui.snapshotLabel.text = _("✔ {number} pictures are in the report.").format(number=taken)
        except SacroplastyError as error:
            self.ui.snapshotLabel.text = f"✘ {error}"

    def onMarkButton(self, checked):
        """Let the trocar be marked in the pictures of views without pose, or leave it at what was marked."""
        self.show(self.logic.beginMarking if checked else self.logic.endMarking)

    def onReferenceButton(self):
        from sacroplasty.errors import SacroplastyError

        try:
            self.logic.learnViews()
            self.ui.referenceLabel.text = ""
        except SacroplastyError as error:
            self.ui.referenceLabel.text = f"✘ {error}"
            return
        self.showReadout()

    def onScreenButton(self, checked):
        """Open or close the window for a screen that is seen from the table."""
        if checked:
            self._screen = MonitorReadout(self.logic, self.resourcePath("UI/MonitorReadout.ui"), scale=2.4)
            self._screen.widget.windowTitle = _("Sacroplasty cement monitor: research software, not a medical device")
            self._readouts.append(self._screen)
            self._screen.widget.resize(1840, 1000)
            self._screen.widget.show()
            self.showReadout()
        elif self._screen is not None:
            self._readouts.remove(self._screen)
            self._screen.widget.close()
            self._screen.widget.deleteLater()
            self._screen = None

    def showMonitor(self, readout):
        """The monitor's word above both tabs, and its page where that is seen."""
        monitor = self.logic.monitorReadout()
        texts = [levelTexts(monitor.level, monitor.event), monitor.text]
        self.ui.bannerLabel.text = "\n".join(text for text in texts if text)
        style = f"font-size: 20pt; font-weight: bold; padding: 6px; {levelLook(monitor.level, readout.alarms)}"
        if self.ui.bannerLabel.styleSheet != style:
            self.ui.bannerLabel.styleSheet = style
        self.ui.adviceLabel.text = adviceText(monitor, self.logic.isByHand())
        self.ui.adviceLabel.visible = monitor.level in ("watch", "warning", "leak", "unjudged")
        seen = [self._readouts[0]] if self.ui.pageTabWidget.currentIndex == 1 else []
        for shown in (*seen, *self._readouts[1:]):
            shown.show(monitor, readout.alarms, self.look(), self.logic.isByHand())
        self.showMonitorButtons(monitor)
        self.logic.showEstimate(self._parameterNode.estimate)

    def showMonitorButtons(self, monitor):
        replayed = monitor.replayed
        self.ui.liveButton.visible = replayed is not None
        self.ui.freezeButton.enabled = replayed is None and bool(monitor.planes)
        self.ui.replayButton.enabled = self.ui.replaySlider.enabled = bool(monitor.planes)
        if not self.ui.replaySlider.sliderDown:
            # What the page sets is no wish of the person.
            self.ui.replaySlider.blockSignals(True)
            self.ui.replaySlider.value = 0 if replayed is None else -round(10 * replayed.before_s)
            self.ui.replaySlider.blockSignals(False)
        self.ui.acknowledgeButton.enabled = monitor.may_acknowledge
        self.ui.snapshotButton.enabled = bool(monitor.planes)
        self.ui.markButton.visible = monitor.may_mark
        self.ui.markLabel.visible = monitor.marking is not None
        self.ui.markLabel.text = markText(monitor.marking) if monitor.marking else ""
        for button, checked in (
            (self.ui.subtractionButton, self._parameterNode.subtraction),
            (self.ui.roadMapButton, self._parameterNode.roadMap),
            (self.ui.markButton, monitor.marking is not None),
        ):
            if button.checked != checked:
                button.checked = checked
        self.ui.referenceProgressBar.visible = monitor.learning is not None
        if monitor.learning is not None:
            self.ui.referenceProgressBar.value = round(100 * monitor.learning)
        if monitor.refusal:
            self.ui.referenceLabel.text = f"✘ {monitor.refusal}"
        elif monitor.learning is not None:
            self.ui.referenceLabel.text = _("Learning: hold still, no cement.")
        elif "not learned" not in monitor.unknown:
            self.ui.referenceLabel.text = learnedText(monitor)
        elif monitor.saved_text:
            self.ui.referenceLabel.text = _("Saved: {text}. Learn the views to go on.").format(text=monitor.saved_text)

    def onSideChosen(self, side):
        self.logic.choose(side)
        self.showReadout()

    def refusing(self, action, *arguments):
        """Do it, and show in a line why it cannot be done; nothing pops up here. Returns whether it was done."""
        from sacroplasty.errors import SacroplastyError

        try:
            action(*arguments)
            self.ui.refusalLabel.text = ""
        except SacroplastyError as error:
            self.ui.refusalLabel.text = f"✘ {error}"
            return False
        self.showReadout()
        return True

    def showReadout(self):
        """Everything in large letters; a dash for what is not known."""
        if self._parameterNode is None:
            return
        self.logic.setTemperature(self._parameterNode.temperatureC)
        readout = self.logic.readout()
        self.ui.monitorTab.enabled = readout is not None
        if readout is None:
            self.ui.bannerLabel.text = _("✘ The module Sacroplasty Devices is not loaded.")
            return
        # A third of what is seen of the page, however large the window is.
        window = slicer.util.mainWindow()
        if window is not None:
            self.ui.stopButton.setMinimumHeight(max(220, window.height // 3))
        self.showMonitor(readout)
        self.showAlarms(readout.alarms)
        self.showNumbers(readout)
        self.showButtons(readout)
        now = time.monotonic()
        if now - self._drawnAt > 0.5:
            self._drawnAt = now
            self.drawCurves(readout)
        # What was refused a moment ago must not stand there while cement flows.
        if readout.reason or readout.injection == "injecting":
            self.ui.refusalLabel.text = readout.reason

    def showNumbers(self, readout):
        self.ui.clockLabel.text = self.minutes(readout.age_s)
        self.ui.phaseLabel.text = self.phaseText(readout)
        for side, label in (("left", self.ui.leftVolumeLabel), ("right", self.ui.rightVolumeLabel)):
            planned = readout.planned_ml[side]
            label.text = f"{readout.given_ml[side]:.1f} / {'–' if planned is None else f'{planned:.1f}'}"
        self.ui.totalVolumeLabel.text = f"{readout.total_ml:.1f} / {readout.total_limit_ml:.0f}"
        self.ui.pressureLabel.text = "–" if readout.pressure_kpa is None else f"{readout.pressure_kpa:.0f}"
        if readout.instruction:
            self.ui.stateLabel.text = _("By hand")
        else:
            self.ui.stateLabel.text = _("Pump: {state}").format(state=readout.pump_text)
        wait = _(", wait {time}").format(time=self.minutes(readout.wait_s)) if readout.wait_s > 0 else ""
        self.ui.stepLabel.text = readout.step_text + wait
        self.ui.instructionLabel.text = readout.instruction
        self.ui.instructionLabel.visible = bool(readout.instruction)
        color = {"injecting": "#1b7f3b", "stopped": "#b00020"}.get(readout.injection, "#0052a3")
        if color not in self.ui.instructionLabel.styleSheet:
            self.ui.instructionLabel.styleSheet = (
                f"font-size: 24pt; font-weight: bold; color: white; background-color: {color}; padding: 6px;"
            )
        self.ui.viscosityLabel.text = readout.viscosity_text or "–"
        self.ui.afterFlowLabel.text = readout.after_flow_text or "–"
        self.ui.outlookLabel.text = f"⚠ {readout.outlook_text}" if readout.outlook_text else "–"
        self.ui.spreadLabel.text = readout.spread_text or "–"
        self.ui.withdrawnLabel.text = readout.withdrawn_text or "–"
        self.ui.journalLabel.text = readout.journal_text

    def showButtons(self, readout):
        self.ui.earlierFrame.visible = bool(readout.earlier_text)
        self.ui.earlierLabel.text = readout.earlier_text
        self.ui.armButton.enabled = readout.may_arm
        self.ui.armButton.text = _("Reset") if readout.injection == "stopped" else _("Arm")
        self.ui.injectButton.enabled = readout.may_inject
        self.ui.injectButton.text = _("Start") if readout.instruction else _("Hold to inject")
        self.ui.goOnButton.enabled = readout.decides
        self.ui.finishButton.enabled = readout.injection in ("injecting", "holding")
        self.ui.withdrawButton.enabled = readout.may_withdraw
        self.ui.abortButton.enabled = readout.may_abort
        self.ui.withdrawingFrame.visible = readout.withdrawing
        self.ui.noteFrame.visible = readout.awaits_note
        self.ui.byHandFrame.visible = bool(readout.instruction)
        self.ui.leftRadioButton.checked = self.logic.side() == "left"
        self.ui.rightRadioButton.checked = self.logic.side() == "right"

    def showAlarms(self, board):
        """The gravest alarm flashes and sounds by its priority; a pause silences it and hides nothing."""
        now = time.monotonic()
        alarm = board.gravest
        for widget in (self.ui.alarmLabel, self.ui.pauseSoundButton):
            widget.visible = alarm is not None
        if alarm is None:
            self._shownAlarm = ""
            return
        symbol, bright, dark = ALARM_LOOKS[alarm.priority]
        more = len(board.active) - 1
        text = f"{symbol} {alarm.text}" + (_(" (and {number} more)").format(number=more) if more else "")
        self.ui.alarmLabel.text = text
        self.ui.alarmLabel.toolTip = "\n".join(one.text for one in board.active)
        look = bright if board.lit(now) else dark
        if look != self._shownAlarm:
            # A style that is set again is worked out again, and this runs ten times a second.
            self._shownAlarm = look
            self.ui.alarmLabel.styleSheet = f"font-size: 16pt; font-weight: bold; padding: 4px; {look}"
        paused = board.paused_s(now)
        self.ui.pauseSoundButton.text = self.minutes(paused) if paused else _("Pause\nsound")
        if board.sounds(max(self._soundedUntil, now - 0.3), now):
            qt.QApplication.beep()
        self._soundedUntil = now

    def drawCurves(self, readout):
        """Volume with the plan at the left, pressure and flow at the right."""
        from sacroplasty.procedure.injection_curves import axes_of

        samples = self.logic.samples()
        width, height = max(self.ui.curvesLabel.width, 420), 132
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor("white"))
        painter = qt.QPainter()
        painter.begin(pixmap)
        times = [sample.time_s for sample in samples]
        middle, bottom = width // 2, height - 8
        planned = sum(volume for volume in readout.planned_ml.values() if volume is not None)
        volumes = [sample.given_ml for sample in samples]
        axes = axes_of(samples, [*volumes, planned], 1.0, (6, 26, middle - 8, bottom))
        drawPlot(painter, axes, _("mL, up to {value:g}").format(value=axes.highest), "volume")
        if planned:
            drawLines(painter, [(axes.at(axes.begin_s, planned), axes.at(axes.end_s, planned))], "plan", 1)
        drawLines(painter, axes.lines(times, volumes), "volume", 3)
        pressures = [sample.pressure_kpa for sample in samples]
        axes = axes_of(samples, pressures, 500.0, (middle + 8, 26, width - 6, bottom))
        drawPlot(painter, axes, _("kPa, up to {value:g}").format(value=axes.highest), "pressure")
        drawLines(painter, axes.lines(times, pressures), "pressure", 3)
        flows = [sample.rate_ml_s for sample in samples]
        axes = axes_of(samples, flows, 0.1, (middle + 8, 26, width - 6, bottom))
        setPen(painter, CURVE_COLORS["flow"], 1)
        painter.drawText(middle + 8 + (width - middle) // 2, 18, _("mL/s, {value:g}").format(value=axes.highest))
        drawLines(painter, axes.lines(times, flows), "flow", 2)
        painter.end()
        self.ui.curvesLabel.setPixmap(pixmap)

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
    """A few lines onto sacroplasty.scene.injection_desk, at the turns of the devices module."""

    # A reading of the room speaks for two minutes; taken anew well before.
    TEMPERATURE_INTERVAL_S = 30.0

    # Beside the recorded sessions of the devices module. Always the same, so that a killed session is found again.
    DEFAULT_JOURNALS = "~/Sacroplasty sessions"

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._desk = None
        self._devices = None
        self._isHeld = None
        self._asked = {}
        self._temperature = None
        self._journals = self.DEFAULT_JOURNALS

    def getParameterNode(self):
        return SacroplastyCementMonitorParameterNode(super().getParameterNode())

    def start(self, isHeld):
        """Begin on the case of the scene.

        :param isHeld: function that tells whether a person holds the injection button now.
        """
        self._isHeld = isHeld
        if not hasattr(slicer.modules, "sacroplastydevices"):
            return
        from sacroplasty.scene.injection_desk import InjectionDesk

        self._devices = slicer.util.getModuleLogic("SacroplastyDevices")
        if self._desk is None:
            self._desk = InjectionDesk(
                slicer.mrmlScene, self._devices.desk(), time.monotonic(), time.time(), self.journalFolder()
            )
        self._devices.addListener(self.tick)

    def tick(self, now):
        """One turn, called by the devices module."""
        asked, self._asked = self._asked, {}
        self._desk.tick(now, bool(self._isHeld()), **asked)

    def ask(self, request, **more):
        """Ask for something at the next turn; see sacroplasty.cement.injection.Request."""
        self._asked = {"request": request, **more}

    def side(self):
        return self._desk.side if self._desk else "left"

    def choose(self, side):
        if self._desk:
            self._desk.choose(side, time.monotonic())

    def isByHand(self):
        return self._desk is not None and self._desk.technique.delivery == "manual"

    def setTechnique(self, parameterNode, meterAddress=""):
        """Give cement in the way that the parameter node says."""
        if self._desk is None:
            return
        from sacroplasty.cement.manual_injection import EnteredVolumes
        from sacroplasty.scene.injection_desk import Technique
        from sacroplasty.scene.volume_meter import metered_volumes

        if parameterNode.byHand:
            self._desk.use_volume_source(metered_volumes(meterAddress) if meterAddress else EnteredVolumes())
        technique = Technique(
            mode="continuous" if parameterNode.continuous else "stepwise",
            delivery="manual" if parameterNode.byHand else "pump",
            step_volume_ml=parameterNode.stepVolumeMl,
            wait_s=parameterNode.waitS,
            rate_ml_s=parameterNode.rateMlS,
            lowest_concentricity=parameterNode.lowestConcentricity,
        )
        self._desk.choose(self._desk.side, time.monotonic(), technique)

    def enterVolume(self, volumeMl):
        """Count a syringe that was given by hand."""
        if self._desk:
            self._desk.enter_volume(volumeMl, time.monotonic())

    def journalFolder(self):
        return Path(self._journals).expanduser()

    def keepJournals(self, path):
        """Write the journal into this folder from now on."""
        self._journals = path or self.DEFAULT_JOURNALS
        if self._desk:
            self._desk.keep_journals(self.journalFolder())

    def takeUp(self):
        """Go on with the session that was not closed."""
        if self._desk:
            self._desk.take_up(time.monotonic(), time.time())

    def leaveEarlier(self):
        """The session that was not closed is another patient's."""
        if self._desk:
            self._desk.leave_earlier(time.monotonic())

    def pauseSound(self):
        if self._desk:
            self._desk.pause_sound(time.monotonic())

    def samples(self):
        """The curves of volume, flow and pressure."""
        return self._desk.samples if self._desk else []

    def arm(self):
        """Ask for arming at the next turn; after a stop, for the reset that has to come before."""
        stopped = self._desk is not None and self._desk.readout(time.monotonic()).injection == "stopped"
        self.ask("reset" if stopped else "arm")

    def stop(self):
        """Stop now; False when there is no pump that can be told."""
        return self._desk is not None and self._desk.stop(time.monotonic())

    def mix(self):
        if self._desk:
            self._desk.mix(time.monotonic(), time.time())

    def learnViews(self):
        """Learn the views without cement; from then on they are watched."""
        if self._desk:
            self._desk.learn_views(time.monotonic())

    # Monitor

    def monitorReadout(self):
        """A sacroplasty.scene.monitor_page.MonitorReadout."""
        return self._desk.page.readout(time.monotonic())

    def look(self, subtraction, roadMap, growth, structures):
        from sacroplasty.scene.monitor_page import Look

        return Look("road map" if roadMap else "subtraction" if subtraction else "live", growth, structures)

    def pictureKey(self, plane, look):
        """Changes when there is another picture to be drawn."""
        return self._desk.page.picture_key(plane, look, time.monotonic())

    def picture(self, plane, look):
        return self._desk.page.picture(plane, look, time.monotonic())

    def outlinePlaces(self, plane):
        return self._desk.page.outline_places(plane, time.monotonic())

    def viewText(self, plane):
        return self._desk.page.view_text(plane)

    def showEstimate(self, visible):
        """Show in slices and in 3D where the cement lies by the views, or not."""
        from sacroplasty.scene.cement_estimate import set_estimates_visible

        set_estimates_visible(slicer.mrmlScene, visible)

    def curve(self):
        """Cement given and seen, since the views were learned."""
        return self._desk.page.curve

    def freeze(self):
        self._desk.page.freeze(time.monotonic())

    def replay(self):
        self._desk.page.replay(time.monotonic())

    def showMoment(self, beforeS):
        self._desk.page.show_moment(beforeS, time.monotonic())

    def goLive(self):
        self._desk.page.go_live()

    def takeRoadMap(self):
        self._desk.page.take_road_map()

    def beginMarking(self):
        """Let the trocar be marked in the pictures of views without pose."""
        self._desk.page.begin_marking()

    def endMarking(self):
        self._desk.page.end_marking()

    def mark(self, plane, across, down):
        """Set the mark that is waited for, at these shares of a picture's width and height."""
        self._desk.page.mark(plane, across, down)

    def acknowledgeLeak(self):
        """A person has seen the leak; the pump stays stopped."""
        self._desk.acknowledge_leak(time.monotonic())

    def snapshot(self, look):
        """Send the pictures as they are shown to the report; returns how many."""
        return self._desk.page.snapshot(time.monotonic(), look)

    def predictSpread(self, progress):
        """Predict where the planned volume goes from the tip as it stands."""
        if self._desk:
            self._desk.predict_spread(progress)

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
        """An InjectionReadout, or None before start()."""
        return self._desk.readout(time.monotonic()) if self._desk else None

    def close(self):
        """Let go of the case."""
        if self._devices is not None:
            self._devices.removeListener(self.tick)
        if self._desk is not None:
            self._desk.close(time.monotonic())
        self._desk = self._devices = self._temperature = None
        self._asked = {}


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
        from sacroplasty.scene.devices import DeviceDesk
        from sacroplasty.scene.injection_desk import InjectionDesk

        desk = InjectionDesk(slicer.mrmlScene, DeviceDesk(slicer.mrmlScene, "test"), 0.0, 1000.0)
        desk.mix(0.0, 1000.0)
        desk.tick(1.0, True, "arm")
        desk.tick(2.0, True)
        readout = desk.readout(60.0)
        self.assertEqual(readout.age_s, 60.0)
        self.assertEqual(readout.banner, "blind")
        self.assertFalse(readout.may_inject)
        self.assertEqual(readout.total_ml, 0.0)
        self.delayDisplay(_("Test passed"))
