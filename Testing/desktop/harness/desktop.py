"""The desk itself: puts the stand-ins in place, opens module files on it, and takes pictures."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import tempfile
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import parameter_node
from .digest import digest
from .strict import MODULES, qt_class
from .usage import qualified, read_form
from .widgets import widget_class

if sys.version_info < (3, 12):
    # PySide6 6.12 drops one reference to None in every call that returns nothing; True and False are lost now and then
    # too. From Python 3.12 on they are immortal; before, they would be freed after some ten thousand calls. So many
    # spare references make them as good as immortal.
    for constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40

# Functions of slicer.util that need windows, dialogs or views: the desk notes the call instead.
NOTED_CALLS = (
    "confirmOkCancelDisplay",
    "confirmYesNoDisplay",
    "delayDisplay",
    "errorDisplay",
    "forceRenderAllViews",
    "infoDisplay",
    "messageBox",
    "resetSliceViews",
    "resetThreeDViews",
    "selectModule",
    "setSliceViewerLayers",
    "warningDisplay",
)
# Module logics of the host that a module may ask for: slicer.modules.<key>.logic().
HOST_LOGICS = {
    "markups": "markups_logic",
    "segmentations": "segmentations_logic",
    "subjecthierarchy": "subject_hierarchy_logic",
    "terminologies": "terminologies_logic",
    "volumes": "volumes_logic",
}


def module_names() -> list[str]:
    """The modules of this extension: folders of Modules/ that hold a file of their own name."""
    return sorted(folder.name for folder in MODULES.iterdir() if (folder / f"{folder.name}.py").is_file())


def module_file(name: str) -> Path:
    return MODULES / name / f"{name}.py"


def form_file(name: str) -> Path:
    return MODULES / name / "Resources" / "UI" / f"{name}.ui"


class Desktop:
    """Stand-ins for `qt`, `ctk` and what `slicer` lacks outside Slicer, over one real scene.

    Attributes:
        scene: the real vtkMRMLScene that modules see as slicer.mrmlScene.
        calls: (function name, arguments) of every noted slicer.util call, in order.
        samples: keyword arguments of every registered sample data source.
        slot_errors: exceptions that left a Qt slot; Slicer would print them and go on.
        answer: what confirm...Display returns.
    """

    def __init__(self, host: Any) -> None:
        self.application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self.application.setStyle("Fusion")
        self.scene = host.scene
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.samples: list[dict[str, Any]] = []
        self.slot_errors: list[BaseException] = []
        self.answer = True
        self._host = host
        self._at_start_up: list[Callable[[], None]] = []
        self._modules: dict[str, SimpleNamespace] = {}
        self._widgets: dict[str, Any] = {}
        self._restore = contextlib.ExitStack()

    # Putting the stand-ins in place and taking them away

    def set_up(self) -> None:
        import slicer.util

        import slicer

        self._settings_folder = tempfile.mkdtemp()
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self._settings_folder)
        self._put_module("qt", _lazy_module("qt", self._qt_attribute))
        self._put_module("ctk", _lazy_module("ctk", lambda name: widget_class(f"ctk.{name}")))
        from . import scripted_module

        self._put_module("slicer.ScriptedLoadableModule", _module_of("slicer.ScriptedLoadableModule", scripted_module))
        self._put_module("slicer.parameterNodeWrapper", _module_of("slicer.parameterNodeWrapper", parameter_node))
        self._put_module(
            "slicer.i18n", _module("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
        )
        self._put_module("SampleData", self._sample_data())
        self._put(slicer, "mrmlScene", self.scene)
        self._put(slicer, "app", _Application(self))
        self._put(slicer, "modules", _ModuleList(self._modules, self._host))
        self._put(slicer.util, "loadUI", load_ui)
        self._put(slicer.util, "mainWindow", lambda: None)
        self._put(slicer.util, "getModuleWidget", self.module_widget)
        self._put(slicer.util, "getModuleLogic", lambda name: self.module_widget(name).logic)
        for name in NOTED_CALLS:
            self._put(slicer.util, name, self._noting(name))
        for name in digest().classes:
            if name.startswith("slicer.q"):
                self._put(slicer, name.partition(".")[2], widget_class(name))
        previous = sys.excepthook

        def note_error(kind: Any, error: BaseException, trace: Any) -> None:
            self.slot_errors.append(error)
            previous(kind, error, trace)

        self._put(sys, "excepthook", note_error)

    def tear_down(self) -> None:
        self.clear()
        self._restore.close()

    def clear(self) -> None:
        """An empty scene, no open module and no notes, as between two tests."""
        for widget in list(self._widgets.values()):
            self.close(widget)
        self.scene.Clear(0)
        for notes in (self.calls, self.samples, self.slot_errors, self._at_start_up):
            notes.clear()
        self._modules.clear()
        self.answer = True

    # What tests do

    def load_module(self, name: str) -> ModuleType:
        """Import a module file and make its module object, as Slicer does at start-up."""
        import slicer

        path = module_file(name)
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification and specification.loader
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        self._restore.callback(sys.modules.pop, name, None)
        specification.loader.exec_module(module)
        description = SimpleNamespace(name=name, path=str(path), title=name, categories=[], dependencies=[])
        self._modules[name.lower()] = description
        description.instance = getattr(module, name)(description)
        assert hasattr(slicer.modules, name.lower())
        return module

    def start_up(self) -> None:
        """Tell the loaded modules that the application has started."""
        for receiver in self._at_start_up:
            receiver()

    def open_module(self, name: str) -> Any:
        """Load a module, build its widget and enter it; returns the Python widget object (its Qt part is `.parent`)."""
        widget = self.module_widget(name)
        self.enter(widget)
        return widget

    def module_widget(self, name: str) -> Any:
        """The widget of a module, built when it is first asked for and not entered: slicer.util.getModuleWidget."""
        if name not in self._widgets:
            module = sys.modules[name] if name.lower() in self._modules else self.load_module(name)
            panel = widget_class("slicer.qSlicerScriptedLoadableModuleWidget")()
            panel.setMRMLScene(self.scene)
            widget = getattr(module, f"{name}Widget")(panel)
            widget.setup()
            self._widgets[name] = widget
        return self._widgets[name]

    def enter(self, widget: Any) -> None:
        widget.parent.isEntered = True
        if hasattr(widget, "enter"):
            widget.enter()

    def leave(self, widget: Any) -> None:
        """What Slicer does when the person opens another module."""
        widget.parent.isEntered = False
        if hasattr(widget, "exit"):
            widget.exit()

    def close(self, widget: Any) -> None:
        """What Slicer does when it closes."""
        self._widgets.pop(widget.moduleName, None)
        if widget.parent.isEntered:
            self.leave(widget)
        widget.cleanup()
        widget.parent.deleteLater()
        self.application.sendPostedEvents(None, QtCore.QEvent.DeferredDelete.value)

    def connected_guis(self) -> int:
        """How many times a parameter node is tied to widgets just now."""
        return parameter_node.connected_guis()

    def wait(self, milliseconds: int = 0) -> None:
        """Let Qt work: at once for pending events, or for a while for timers and processes."""
        loop = QtCore.QEventLoop()
        QtCore.QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()
        self.application.processEvents()

    def picture(self, widget: Any, path: Path, width: int = 480) -> Path:
        """Save what the module panel shows, at the width that Slicer gives it, as tall as it needs."""
        panel = widget.parent
        panel.layout().addStretch(1)
        panel.resize(width, 200)
        panel.show()
        self.wait()
        for _ in range(2):  # Lines that wrap make a panel taller once it is laid out.
            wanted = max(panel.layout().totalHeightForWidth(width), QtWidgets.QWidget.sizeHint(panel).height(), 200)
            panel.resize(width, min(wanted, 2400))
            self.wait()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not panel.grab().save(str(path)):
            raise OSError(f"{path} could not be written")
        panel.hide()
        return path

    # How the stand-ins are put

    def _put(self, owner: Any, name: str, value: Any) -> None:
        missing = object()
        previous = vars(owner).get(name, missing)
        setattr(owner, name, value)
        self._restore.callback(lambda: delattr(owner, name) if previous is missing else setattr(owner, name, previous))

    def _put_module(self, name: str, module: ModuleType) -> None:
        previous = sys.modules.get(name)
        sys.modules[name] = module
        self._restore.callback(
            lambda: sys.modules.pop(name, None) if previous is None else sys.modules.__setitem__(name, previous)
        )
        package, _, leaf = name.rpartition(".")
        if package:
            self._put(sys.modules[package], leaf, module)

    def _qt_attribute(self, name: str) -> Any:
        if name == "QUiLoader":
            return QtUiTools.QUiLoader
        return qt_class(name)

    def _noting(self, name: str) -> Callable[..., Any]:
        def note(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append((name, (*arguments, *keywords.values())))
            return self.answer if name.startswith("confirm") else None

        return note

    def _sample_data(self) -> ModuleType:
        desktop = self

        class SampleDataLogic:
            @staticmethod
            def registerCustomSampleDataCategory(category: str, title: str | None = None, **_: Any) -> None:
                """Only the sources matter here."""

            @staticmethod
            def registerCustomSampleDataSource(**source: Any) -> None:
                desktop.samples.append(source)

        def downloadSample(name: str) -> None:
            desktop.calls.append(("downloadSample", (name,)))

        return _module("SampleData", SampleDataLogic=SampleDataLogic, downloadSample=downloadSample)


class _Application:
    """slicer.app without a window. It offers little, and nothing that the digest does not list."""

    def __init__(self, desktop: Desktop) -> None:
        self._desktop = desktop
        self.temporaryPath = tempfile.gettempdir()
        self.slicerHome = str(Path(sys.prefix))
        self.applicationName = "Slicer"

    def __getattr__(self, name: str) -> Any:
        if name not in digest().members("slicer.app"):
            raise AttributeError(f"slicer.app has no {name} in Slicer")
        raise NotImplementedError(f"slicer.app.{name} needs a real Slicer: test it in Testing/slicer")

    def connect(self, signature: str, receiver: Callable[[], None]) -> None:
        if signature != "startupCompleted()":
            raise NotImplementedError(f"the desk sends no {signature}")
        self._desktop._at_start_up.append(receiver)

    def applicationLogic(self) -> Any:
        return self._desktop._host.app.app_logic

    def mrmlScene(self) -> Any:
        return self._desktop.scene

    def layoutManager(self) -> None:
        """None, as in a Slicer that was started without its main window."""

    def settings(self) -> Any:
        return qt_class("QSettings")()

    def userSettings(self) -> Any:
        return qt_class("QSettings")()

    def testingEnabled(self) -> bool:
        return False

    def processEvents(self, *_: Any) -> None:
        self._desktop.application.processEvents()

    def setOverrideCursor(self, cursor: Any) -> None:
        self._desktop.application.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        self._desktop.application.restoreOverrideCursor()

    def pauseRender(self) -> None:
        """No view is shown."""

    def resumeRender(self) -> None:
        """No view is shown."""


class _ModuleList:
    """slicer.modules: this extension's loaded modules, and the logics that the headless host has."""

    def __init__(self, loaded: dict[str, SimpleNamespace], host: Any) -> None:
        self._loaded, self._host = loaded, host

    def __getattr__(self, name: str) -> Any:
        if name in self._loaded:
            return self._loaded[name]
        if name in HOST_LOGICS:
            return SimpleNamespace(name=name, logic=lambda: getattr(self._host.app, HOST_LOGICS[name]))
        raise AttributeError(f"the desk has no module {name}")


class _Loader(QtUiTools.QUiLoader):
    """Makes every widget of a .ui file as its stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self._kept: list[Any] = []

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        python_name = qualified(class_name)
        try:
            created = (qt_class(class_name) if python_name.startswith("qt.") else widget_class(python_name))(parent)
        except AttributeError as error:
            self.problems.append(str(error))
            created = QtWidgets.QWidget(parent)
        created.setObjectName(name)
        self._kept.append(created)
        return created

    def createLayout(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        created = qt_class(class_name)()
        created.setObjectName(name)
        if isinstance(parent, QtWidgets.QWidget) and parent.layout() is None:
            parent.setLayout(created)
        self._kept.append(created)
        return created


def load_ui(path: str) -> Any:
    """Stand-in for slicer.util.loadUI: builds the widgets and makes the connections of the .ui file.

    Raises:
        RuntimeError: when the file is missing, or names a class, signal or slot that Slicer does not have.
    """
    file = Path(path)
    if not file.is_file():
        raise RuntimeError(f"no .ui file {path}")
    form = read_form(file)
    tree = ElementTree.parse(file)
    for connections in tree.getroot().findall("connections"):
        tree.getroot().remove(connections)
    buffer = QtCore.QBuffer()
    buffer.setData(ElementTree.tostring(tree.getroot()))
    buffer.open(QtCore.QIODevice.ReadOnly)
    loader = _Loader()
    widget = loader.load(buffer)
    if widget is None or loader.problems:
        raise RuntimeError(f"{file.name}: {'; '.join(loader.problems) or loader.errorString()}")
    widget._kept = loader._kept
    by_name = {made.objectName: made for made in _tree_of(widget)}
    for sender, signal, receiver, slot in form.connections:
        for name, signature, offered in ((sender, signal, "signals"), (receiver, slot, "slots")):
            if signature not in getattr(digest(), offered)(qualified(form.widgets[name])):
                raise RuntimeError(f"{file.name}: {form.widgets[name]} {name} has no {signature}")
        source = getattr(by_name[sender], signal.partition("(")[0])
        source.connect(getattr(by_name[receiver], slot.partition("(")[0]))
    return widget


def _tree_of(widget: Any) -> Iterator[Any]:
    yield widget
    yield from (child for child in QtWidgets.QWidget.findChildren(widget, QtWidgets.QWidget) if hasattr(child, "name"))


def _module(name: str, **attributes: Any) -> ModuleType:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    return module


def _module_of(name: str, source: ModuleType) -> ModuleType:
    """A module that offers of `source` only what the real one offers."""
    offered = {key: value for key, value in vars(source).items() if key in digest().python_names(name)}
    return _module(name, __all__=sorted(offered), **offered)


def _lazy_module(name: str, attribute: Callable[[str], Any]) -> ModuleType:
    module = types.ModuleType(name)

    def get(key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        return attribute(key)

    module.__getattr__ = get  # type: ignore[method-assign]
    return module
