"""Stand-in for slicer.parameterNodeWrapper: typed parameters on a real parameter node, tied to real widgets.

Written from the documented behaviour; it holds to what Slicer stores (text per parameter, node references by role) so
that a saved scene is the same, and refuses types and widgets that Slicer could not connect.
"""

from __future__ import annotations

import enum
import pathlib
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import vtk

PROPERTY_NAME = "SlicerParameterName"

_tied: weakref.WeakSet[Any] = weakref.WeakSet()


def connected_guis() -> int:
    """How many connectGui() calls have not been followed by disconnectGui()."""
    return sum(len(wrapper._connections) for wrapper in _tied)


class Validator:
    def validate(self, value: Any) -> None:
        raise NotImplementedError


class WithinRange(Validator):
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"value {value} is outside [{self.minimum}, {self.maximum}]")


class Minimum(Validator):
    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"value {value} is below {self.minimum}")


class Maximum(Validator):
    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"value {value} is above {self.maximum}")


class Choice(Validator):
    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"value {value} is none of {self.choices}")


@dataclass
class Default:
    value: Any = None


@dataclass
class Decimals:
    value: int


@dataclass
class SingleStep:
    value: float


@dataclass(frozen=True)
class Parameter:
    """One parameter of a wrapper class."""

    name: str
    kind: Any
    annotations: tuple[Any, ...]
    default: Any

    def find(self, annotation: type) -> Any:
        return next((found for found in self.annotations if isinstance(found, annotation)), None)

    def is_node(self) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, vtk.vtkObject)

    def validate(self, value: Any) -> None:
        accepted = (int, float) if self.kind is float else self.kind
        if value is None and not self.is_node():
            raise ValueError(f"{self.name} must not be None")
        if value is not None and not isinstance(value, accepted):
            raise TypeError(f"{self.name} takes {self.kind.__name__}, not {type(value).__name__}")
        for annotation in self.annotations:
            if isinstance(annotation, Validator):
                annotation.validate(value)

    def is_in(self, node: Any) -> bool:
        return bool(node.HasParameter(self.name))

    def read(self, node: Any) -> Any:
        if self.is_node():
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kind is bool:
            return text == "True"
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        self.validate(value)
        if self.is_node():
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        elif isinstance(value, enum.Enum):
            node.SetParameter(self.name, value.name)
        else:
            node.SetParameter(self.name, str(value))


def _parameter(owner: type, name: str, hint: Any) -> Parameter:
    annotations: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        annotations = tuple(rest)
    known = isinstance(hint, type) and (
        hint in (str, int, float, bool, pathlib.Path) or issubclass(hint, enum.Enum | vtk.vtkObject)
    )
    if not known:
        raise TypeError(f"{owner.__name__}.{name}: the harness does not know parameters of type {hint}")
    if hasattr(owner, name):
        default = getattr(owner, name)
    else:
        annotated = next((found for found in annotations if isinstance(found, Default)), None)
        default = annotated.value if annotated else _default_of(hint)
    return Parameter(name, hint, annotations, default)


def _default_of(kind: Any) -> Any:
    if issubclass(kind, vtk.vtkObject):
        return None
    return next(iter(kind)) if issubclass(kind, enum.Enum) else kind()


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: annotated members become parameters of the node given to the constructor."""
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _parameter(cls, name, hint) for name, hint in hints.items()}
    for name, parameter in parameters.items():
        setattr(cls, name, _property(parameter))
    namespace = {name: value for name, value in vars(_Wrapper).items() if not name.startswith("__")}
    for name, value in namespace.items():
        if hasattr(cls, name):
            raise ValueError(f"{cls.__name__}.{name} is a reserved name")
        setattr(cls, name, value)
    cls.allParameters = parameters  # type: ignore[attr-defined]
    cls.__init__ = _initialize  # type: ignore[misc]
    return cls


def _property(parameter: Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode),
        lambda self, value: parameter.write(self.parameterNode, value),
    )


def _initialize(self: Any, parameterNode: Any) -> None:
    self.parameterNode = parameterNode
    self._connections = {}
    _tied.add(self)
    for parameter in self.allParameters.values():
        if not parameter.is_in(parameterNode):
            parameter.write(parameterNode, parameter.default)


class _Wrapper:
    """What every wrapper object can do beside holding its parameters."""

    allParameters: dict[str, Parameter]
    parameterNode: Any
    _connections: dict[int, tuple[list[Connector], int]]

    def getValue(self, name: str) -> Any:
        return self.allParameters[name].read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        self.allParameters[name].write(self.parameterNode, value)

    def default(self, name: str) -> Default:
        return Default(self.allParameters[name].default)

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, was_modifying: int) -> int:
        return self.parameterNode.EndModify(was_modifying)

    def Modified(self) -> None:
        self.parameterNode.Modified()

    def AddObserver(self, event: Any, callback: Callable[..., Any], priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, gui: Any) -> int:
        """Tie every widget whose dynamic property SlicerParameterName names a parameter; returns a tag."""
        widgets = {}
        for widget in vars(gui).values():
            name = widget.property(PROPERTY_NAME)
            if name:
                if name not in self.allParameters:
                    raise ValueError(f"a widget names the parameter {name}, which {type(self).__name__} does not have")
                widgets[name] = widget
        connectors = [Connector(self.allParameters[name], widget) for name, widget in widgets.items()]
        updating = [False]

        def show(*_: object) -> None:
            if updating[0]:
                return
            updating[0] = True
            try:
                for connector in connectors:
                    connector.show(self.getValue(connector.parameter.name))
            finally:
                updating[0] = False

        def changed(connector: Connector) -> None:
            if not updating[0]:
                self.setValue(connector.parameter.name, connector.read())

        show()
        for connector in connectors:
            connector.watch(changed)
        tag = len(self._connections)
        self._connections[tag] = (connectors, self.AddObserver(vtk.vtkCommand.ModifiedEvent, show))
        return tag

    def disconnectGui(self, tag: int) -> None:
        connectors, observer = self._connections.pop(tag, ([], None))
        for connector in connectors:
            connector.unwatch()
        if observer is not None:
            self.RemoveObserver(observer)


# Which widget classes Slicer can tie to which kind of parameter, with attribute read, attribute written, signal.
_SPIN_BOXES = {
    "QDoubleSpinBox",
    "ctkDoubleSpinBox",
    "ctkSliderWidget",
    "qMRMLSliderWidget",
    "qMRMLSpinBox",
}


class Connector:
    """One parameter tied to one widget."""

    def __init__(self, parameter: Parameter, widget: Any) -> None:
        self.parameter, self.widget = parameter, widget
        self._slot: Callable[..., None] | None = None
        class_name = type(widget).__name__
        self._attribute, self._signal = self._access(class_name)
        self._prepare(class_name)

    def _access(self, class_name: str) -> tuple[str, str | None]:
        kind = self.parameter.kind
        if self.parameter.is_node() and class_name == "qMRMLNodeComboBox":
            return "", "currentNodeChanged"
        if kind is bool and class_name in ("QCheckBox", "ctkCheckBox", "QPushButton", "ctkCheckablePushButton"):
            return "checked", "toggled"
        if (kind is int and class_name in ("QSlider", "QSpinBox")) or (
            kind in (int, float) and class_name in _SPIN_BOXES
        ):
            return "value", "valueChanged"
        if class_name in ("QComboBox", "ctkComboBox") and (
            self.parameter.find(Choice) or (isinstance(kind, type) and issubclass(kind, enum.Enum))
        ):
            return "currentIndex", "currentIndexChanged"
        if kind is str and class_name in ("QLineEdit", "QLabel", "QTextEdit"):
            return ("plainText" if class_name == "QTextEdit" else "text"), (
                None if class_name == "QLabel" else "textChanged"
            )
        if kind is pathlib.Path and class_name == "ctkPathLineEdit":
            return "currentPath", "currentPathChanged"
        if kind is pathlib.Path and class_name == "ctkDirectoryButton":
            return "directory", "directoryChanged"
        raise RuntimeError(f"Slicer cannot tie {class_name} to {self.parameter.name} of type {kind}")

    def _prepare(self, class_name: str) -> None:
        parameter, widget = self.parameter, self.widget
        if parameter.is_node():
            widget.nodeTypes = [parameter.kind.__name__]
        elif self._attribute == "currentIndex":
            widget.clear()
            for label in self._labels():
                widget.addItem(label)
        elif self._attribute == "value":
            self._set_limits(class_name)
        elif self._attribute == "checked" and class_name == "QPushButton":
            widget.setCheckable(True)

    def _set_limits(self, class_name: str) -> None:
        span = self.parameter.find(WithinRange)
        low = span or self.parameter.find(Minimum)
        high = span or self.parameter.find(Maximum)
        bounded = low is not None and high is not None
        if class_name in ("QSlider", "ctkSliderWidget", "qMRMLSliderWidget") and not bounded:
            raise RuntimeError(f"Slicer ties a slider to {self.parameter.name} only when it has a range")
        unlimited = 2**31 - 1 if class_name in ("QSlider", "QSpinBox") else float("inf")
        decimals = self.parameter.find(Decimals)
        if class_name in _SPIN_BOXES and (self.parameter.kind is int or decimals):
            self.widget.decimals = 0 if self.parameter.kind is int else decimals.value
        step = self.parameter.find(SingleStep)
        if step:
            self.widget.singleStep = step.value
        self.widget.minimum = low.minimum if low else -unlimited
        self.widget.maximum = high.maximum if high else unlimited

    def _values(self) -> list[Any]:
        choice = self.parameter.find(Choice)
        return list(choice.choices) if choice else list(self.parameter.kind)

    def _labels(self) -> list[str]:
        if self.parameter.find(Choice):
            return [str(value) for value in self._values()]
        return [value.label() if hasattr(value, "label") else value.name for value in self._values()]

    def read(self) -> Any:
        if self.parameter.is_node():
            return self.widget.currentNode()
        value = getattr(self.widget, self._attribute)
        if self._attribute == "currentIndex":
            return self._values()[value]
        return self.parameter.kind(value)

    def show(self, value: Any) -> None:
        if self.parameter.is_node():
            self.widget.setCurrentNode(value)
        elif self._attribute == "currentIndex":
            self.widget.currentIndex = self._values().index(value)
        elif value != getattr(self.widget, self._attribute):
            setattr(self.widget, self._attribute, str(value) if self.parameter.kind is pathlib.Path else value)

    def watch(self, changed: Callable[[Connector], None]) -> None:
        if self._signal:
            self._slot = lambda *_: changed(self)
            getattr(self.widget, self._signal).connect(self._slot)

    def unwatch(self) -> None:
        if self._signal and self._slot:
            getattr(self.widget, self._signal).disconnect(self._slot)
            self._slot = None
