"""Stand-ins for the ctk and qMRML widgets: the ones with behaviour here, any other one as a labelled empty frame.

Inside these classes a Qt property (`self.width`) is the value, not the getter: they are seen as PythonQt shows them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSlider,
    QTextBrowser,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from shiboken6 import isValid

from .digest import digest
from .strict import PYTHON_TYPES, strict_class


class CollapsibleButton(QWidget):
    """ctkCollapsibleButton: a titled section that folds. The layout given to it is its contents."""

    contentsCollapsed = Signal(bool)
    clicked = Signal(bool)
    toggled = Signal(bool)

    TITLE_HEIGHT = 24

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent if isinstance(parent, QWidget) else None)
        self._title = QToolButton(self)
        self._title.setToolButtonStyle(Qt.ToolButtonTextBesideIcon)
        self._title.setArrowType(Qt.DownArrow)
        self._title.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        self._title.setStyleSheet("QToolButton { border: none; background: palette(midlight); font-weight: bold; }")
        self._title.clicked.connect(lambda: self._set_collapsed(not self._collapsed))
        self._collapsed = False
        self.setContentsMargins(0, self.TITLE_HEIGHT, 0, 0)
        if isinstance(parent, str):
            self._set_text(parent)

    def resizeEvent(self, event: Any) -> None:
        self._title.setGeometry(0, 0, event.size().width(), self.TITLE_HEIGHT)
        super().resizeEvent(event)

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._title.setArrowType(Qt.RightArrow if collapsed else Qt.DownArrow)
        for child in self.children():
            if isinstance(child, QWidget) and child is not self._title:
                child.setVisible(not collapsed)
        self.setMaximumHeight(self.TITLE_HEIGHT if collapsed else 16777215)
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    def _set_text(self, text: str) -> None:
        self._title.setText(text)

    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, value: self._set_collapsed(not value))
    text = Property(str, lambda self: self._title.text(), _set_text)

    def setText(self, text: str) -> None:
        self._set_text(text)

    def setChecked(self, checked: bool) -> None:
        self._set_collapsed(not checked)


class CollapsibleGroupBox(QGroupBox):
    """ctkCollapsibleGroupBox: a group box that folds when it is unchecked."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._show_contents)

    def _show_contents(self, shown: bool) -> None:
        for child in self.children():
            if isinstance(child, QWidget):
                child.setVisible(shown)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))


class SliderWidget(QWidget):
    """ctkSliderWidget: a slider and a spin box that hold one number."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._spin_box, self._slider = QDoubleSpinBox(), QSlider(Qt.Horizontal)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin_box)
        self._slider.setRange(0, 1000)
        self._slider.valueChanged.connect(self._slid)
        self._spin_box.valueChanged.connect(self._typed)
        self._spin_box.setRange(0, 99)

    def _limit(self, set_limit: Any, value: float) -> None:
        set_limit(value)
        self._typed(self._spin_box.value())

    def _slid(self, position: int) -> None:
        span = self._spin_box.maximum() - self._spin_box.minimum()
        self._spin_box.setValue(self._spin_box.minimum() + span * position / 1000)

    def _typed(self, value: float) -> None:
        self._slider.blockSignals(True)
        span = self._spin_box.maximum() - self._spin_box.minimum()
        self._slider.setValue(round(1000 * (value - self._spin_box.minimum()) / span) if span else 0)
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    value = Property(float, lambda self: self._spin_box.value(), lambda self, value: self._spin_box.setValue(value))
    minimum = Property(
        float, lambda self: self._spin_box.minimum(), lambda self, n: self._limit(self._spin_box.setMinimum, n)
    )
    maximum = Property(
        float, lambda self: self._spin_box.maximum(), lambda self, n: self._limit(self._spin_box.setMaximum, n)
    )
    singleStep = Property(
        float, lambda self: self._spin_box.singleStep(), lambda self, n: self._spin_box.setSingleStep(n)
    )
    pageStep = Property(float, lambda self: self._spin_box.singleStep() * 10, lambda self, n: None)
    decimals = Property(int, lambda self: self._spin_box.decimals(), lambda self, n: self._spin_box.setDecimals(n))
    suffix = Property(str, lambda self: self._spin_box.suffix(), lambda self, text: self._spin_box.setSuffix(text))
    prefix = Property(str, lambda self: self._spin_box.prefix(), lambda self, text: self._spin_box.setPrefix(text))
    tracking = Property(
        bool, lambda self: self._slider.hasTracking(), lambda self, value: self._slider.setTracking(value)
    )

    def setValue(self, value: float) -> None:
        self._spin_box.setValue(value)

    def setMRMLScene(self, scene: object) -> None:
        """qMRMLSliderWidget reads its unit from the scene; the stand-in shows numbers without one."""


class DoubleSpinBox(QDoubleSpinBox):
    """ctkDoubleSpinBox and qMRMLSpinBox."""

    def setMRMLScene(self, scene: object) -> None:
        """qMRMLSpinBox reads its unit from the scene; the stand-in shows numbers without one."""


class PathLineEdit(QWidget):
    """ctkPathLineEdit: a line with a path and a button that asks for one."""

    currentPathChanged = Signal(str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._line = QLineEdit()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line, 1)
        browse = QToolButton()
        browse.setText("...")
        browse.clicked.connect(lambda: self._line.setText(QFileDialog.getOpenFileName(self)[0] or self._line.text()))
        layout.addWidget(browse)
        self._line.textChanged.connect(self.currentPathChanged)
        self._filters: int = 0
        self._name_filters: list[str] = []

    currentPath = Property(str, lambda self: self._line.text(), lambda self, path: self._line.setText(path))
    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    nameFilters = Property(list, lambda self: self._name_filters, lambda self, n: setattr(self, "_name_filters", n))

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    def addCurrentPathToHistory(self) -> None:
        """The history is kept in the settings of a real Slicer."""


class DirectoryButton(QPushButton):
    """ctkDirectoryButton: a button that shows and asks for a folder."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def _set_directory(self, path: str) -> None:
        if path != QPushButton.text(self):
            self.setText(path)
            self.directoryChanged.emit(path)

    directory = Property(str, lambda self: QPushButton.text(self), _set_directory)


class SceneWidget(QWidget):
    """qMRMLWidget: hands the scene to the widgets that a .ui file connects to it."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class ModulePanel(SceneWidget):
    """qSlicerScriptedLoadableModuleWidget: what a module's Python widget class gets as its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.isEntered = False
        self.setLayout(QVBoxLayout())


class NodeComboBox(QWidget):
    """qMRMLNodeComboBox on a real scene: lists nodes by type and attribute, and follows the scene."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._box = QComboBox()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._scene: Any = None
        self._observed: list[tuple[Any, int]] = []
        self._types: list[str] = []
        self._attributes: list[tuple[str, str, object]] = []
        self._flags = {"noneEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._shown_id = ""
        self._box.currentIndexChanged.connect(self._selected)

    def _set_types(self, types: list[str]) -> None:
        self._types = list(types)
        self._refresh()

    def _flag(name: str, default: bool = False) -> Any:
        def read(self: NodeComboBox) -> bool:
            return self._flags.get(name, default)

        def write(self: NodeComboBox, value: bool) -> None:
            self._flags[name] = bool(value)
            self._refresh()

        return Property(bool, read, write)

    nodeTypes = Property("QStringList", lambda self: self._types, _set_types)
    noneEnabled = _flag("noneEnabled")
    addEnabled = _flag("addEnabled", True)
    removeEnabled = _flag("removeEnabled", True)
    editEnabled = _flag("editEnabled")
    renameEnabled = _flag("renameEnabled")
    selectNodeUponCreation = _flag("selectNodeUponCreation", True)
    showHidden = _flag("showHidden")
    showChildNodeTypes = _flag("showChildNodeTypes", True)
    noneDisplay = Property(str, lambda self: self._none_text, lambda self, text: setattr(self, "_none_text", text))
    baseName = Property(str, lambda self: self._base_name, lambda self, name: setattr(self, "_base_name", name))
    currentNodeID = Property(
        str, lambda self: self._box.currentData() or "", lambda self, id_: self.setCurrentNode(id_)
    )
    _none_text = "None"
    _base_name = ""

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        _stop_observing(self._observed)
        self._scene = scene
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
            self._observed += [(scene, scene.AddObserver(event, self._scene_changed)) for event in events]
        self._refresh()

    def _scene_changed(self, *_: object) -> None:
        if isValid(self._box):
            self._refresh()
        else:  # Qt has destroyed the widget
            _stop_observing(self._observed)

    def addAttribute(self, node_type: str, name: str, value: object = None) -> None:
        self._attributes.append((node_type, name, value))
        self._refresh()

    def currentNode(self) -> Any:
        identity = self._box.currentData()
        return self._scene.GetNodeByID(identity) if self._scene is not None and identity else None

    def currentNodeId(self) -> str:
        return self._box.currentData() or ""

    def setCurrentNode(self, node: Any) -> None:
        identity = node if isinstance(node, str) else (node.GetID() if node is not None else "")
        self._box.setCurrentIndex(self._box.findData(identity) if identity else self._box.findData(None))

    def setCurrentNodeID(self, identity: str) -> None:
        self.setCurrentNode(identity)

    def setCurrentNodeIndex(self, index: int) -> None:
        self._box.setCurrentIndex(index + int(self._flags["noneEnabled"]))

    def nodeCount(self) -> int:
        return self._box.count() - int(self._flags["noneEnabled"])

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID(self._box.itemData(index + int(self._flags["noneEnabled"])))

    def addNode(self, node_type: str = "") -> Any:
        node = self._scene.AddNewNodeByClass(node_type or self._types[0], self._base_name)
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def _listed(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._fits(node)]

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        if not any(
            node.IsA(wanted) if self._flags["showChildNodeTypes"] else node.GetClassName() == wanted
            for wanted in self._types
        ):
            return False
        return all(
            node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
            for node_type, name, value in self._attributes
            if node.IsA(node_type)
        )

    def _refresh(self) -> None:
        kept = self._box.currentData()
        self._box.blockSignals(True)
        self._box.clear()
        if self._flags["noneEnabled"]:
            self._box.addItem(self._none_text, None)
        for node in self._listed():
            self._box.addItem(node.GetName(), node.GetID())
        self._box.setCurrentIndex(max(self._box.findData(kept), 0 if self._box.count() else -1))
        self._box.blockSignals(False)
        self._selected()

    def _selected(self, *_: object) -> None:
        identity = self._box.currentData() or ""
        if identity != self._shown_id:
            self._shown_id = identity
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(identity)


def _stop_observing(observed: list[tuple[Any, int]]) -> None:
    for scene, tag in observed:
        scene.RemoveObserver(tag)
    observed.clear()


class EmptyFrame(QFrame):
    """A widget that needs a whole Slicer: shown as a frame with its name. Calling into it is refused."""

    title: ClassVar[str] = ""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent if isinstance(parent, QWidget) else None)
        self.setFrameStyle(QFrame.StyledPanel | QFrame.Sunken)
        label = QLabel(self.title)
        label.setAlignment(Qt.AlignCenter)
        QVBoxLayout(self).addWidget(label)

    def setMRMLScene(self, scene: object) -> None:
        """Accepted, since .ui files connect it."""


class Show3DButton(QPushButton):
    """qMRMLSegmentationShow3DButton: of the surfaces themselves nothing is shown."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__("Show 3D", parent)
        self._segmentation: Any = None

    def segmentationNode(self) -> Any:
        return self._segmentation

    def setSegmentationNode(self, node: Any) -> None:
        self._segmentation = node


BEHAVIOURS: dict[str, type] = {
    "ctk.ctkCheckBox": QCheckBox,
    "ctk.ctkCheckablePushButton": QPushButton,
    "ctk.ctkCollapsibleButton": CollapsibleButton,
    "ctk.ctkCollapsibleGroupBox": CollapsibleGroupBox,
    "ctk.ctkComboBox": QComboBox,
    "ctk.ctkDirectoryButton": DirectoryButton,
    "ctk.ctkDoubleSpinBox": DoubleSpinBox,
    "ctk.ctkFittedTextBrowser": QTextBrowser,
    "ctk.ctkMenuButton": QPushButton,
    "ctk.ctkPathLineEdit": PathLineEdit,
    "ctk.ctkPushButton": QPushButton,
    "ctk.ctkSliderWidget": SliderWidget,
    "slicer.qMRMLCollapsibleButton": CollapsibleButton,
    "slicer.qMRMLNodeComboBox": NodeComboBox,
    "slicer.qMRMLSegmentationShow3DButton": Show3DButton,
    "slicer.qMRMLSliderWidget": SliderWidget,
    "slicer.qMRMLSpinBox": DoubleSpinBox,
    "slicer.qMRMLWidget": SceneWidget,
    "slicer.qSlicerScriptedLoadableModuleWidget": ModulePanel,
    "slicer.qSlicerWidget": SceneWidget,
}


@cache
def widget_class(slicer_class: str) -> type:
    """The stand-in for a ctk or qMRML class that the digest lists."""
    if not digest().has_class(slicer_class):
        raise AttributeError(f"{slicer_class} is not in the API digest; if Slicer has it, run make_digest.py")
    behaviour = BEHAVIOURS.get(slicer_class)
    if behaviour is not None:
        return strict_class(slicer_class, behaviour)
    return strict_class(slicer_class, EmptyFrame, _empty_members(slicer_class))


def _empty_members(slicer_class: str) -> dict[str, Any]:
    """Signals and plain properties of a class without behaviour; its methods refuse."""
    record = digest().classes[slicer_class]
    members: dict[str, Any] = {"title": slicer_class.partition(".")[2]}
    for signature in sorted(record.get("signals", ())):
        name, _, arguments = signature.rstrip(")").partition("(")
        types = [PYTHON_TYPES.get(argument, object) for argument in arguments.split(",") if argument]
        if not hasattr(EmptyFrame, name):
            members[name] = Signal(*types)
    for name, cpp_type in record.get("properties", {}).items():
        if not hasattr(EmptyFrame, name):
            members[name] = _stored_property(name, PYTHON_TYPES.get(cpp_type, object))
    for name in record["members"]:
        if name not in members and not hasattr(EmptyFrame, name):
            members[name] = _refusal(slicer_class, name)
    return members


def _stored_property(name: str, python_type: Any) -> Any:
    default = python_type() if python_type is not object else None
    return Property(
        python_type if python_type is not list else "QStringList",
        lambda self: self.__dict__.get(f"_{name}", default),
        lambda self, value: self.__dict__.__setitem__(f"_{name}", value),
    )


def _refusal(slicer_class: str, name: str) -> Any:
    def refuse(self: object, *_: object, **__: object) -> None:
        raise NotImplementedError(f"{slicer_class}.{name} needs a real Slicer: test it in Testing/slicer")

    return refuse
