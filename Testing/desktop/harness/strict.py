"""Qt classes as PythonQt shows them: properties are attributes, and only what a real Slicer has can be touched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .digest import digest

MODULES = Path(__file__).parents[3] / "Modules"
# Virtual methods in Qt 6: an attribute of that name on a Python class would be called by Qt in their place.
VIRTUAL = {"sizeHint", "minimumSizeHint", "spacing", "margin", "sizeConstraint"}
# C++ types of properties and signals as PySide names them; vtk pointers travel as Python objects.
PYTHON_TYPES = {
    "bool": bool,
    "int": int,
    "double": float,
    "QString": str,
    "QStringList": list,
    "QColor": QtGui.QColor,
}


def asked_by_module_file(name: str) -> bool:
    """Whether a module file asked for this name (two frames up): only module files are held to the digest.

    Qt, called from a module file, looks for overridden virtual methods in the same way; those names do not stand in
    the module file's code.
    """
    code = sys._getframe(2).f_code
    return code.co_filename.startswith(str(MODULES)) and (name in code.co_names or name in code.co_consts)


class Strict:
    """Mixin in front of a Qt class: module files reach only what the digest lists for `slicer_class`."""

    slicer_class = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and asked_by_module_file(name):
            _require(type(self), name)
        if name in ("connect", "disconnect"):  # PySide would put its own static functions first
            return object.__getattribute__(self, name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: object) -> None:
        if asked_by_module_file(name):
            _require(type(self), name)
        super().__setattr__(name, value)

    def connect(self, signature: str, receiver: Callable[..., object]) -> None:
        """PythonQt's `connect("clicked(bool)", f)`."""
        self._signal(signature).connect(receiver)

    def disconnect(self, signature: str, receiver: Callable[..., object]) -> None:
        self._signal(signature).disconnect(receiver)

    def _signal(self, signature: str) -> Any:
        normalized = signature.replace(" ", "")
        if normalized not in digest().signals(type(self).slicer_class):
            raise AttributeError(f"{type(self).slicer_class} has no signal {signature} in Slicer")
        return getattr(self, normalized.partition("(")[0])


def _require(cls: type, name: str) -> None:
    strict = next(one for one in cls.__mro__ if "slicer_class" in vars(one))
    if cls is not strict and not hasattr(strict, name):
        return  # What a module file derives from a Qt class has names of its own.
    slicer_class = cls.slicer_class  # type: ignore[attr-defined]
    if name not in digest().members(slicer_class):
        raise AttributeError(f"{slicer_class} has no {name} in Slicer {digest().slicer_version}")


class QtProperty:
    """A Qt property as an attribute, through the getter and setter of the PySide class."""

    def __init__(self, base: type, name: str) -> None:
        self._base, self._name = base, name
        capital = name[0].upper() + name[1:]
        self._get = next(
            (
                method
                for candidate in (name, f"is{capital}", f"has{capital}")
                if callable(method := getattr(base, candidate, None)) and not isinstance(method, QtCore.Signal)
            ),
            None,
        )
        self._set = getattr(base, f"set{capital}", None)

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:  # qt.QTimer.singleShot is a property of timers and a function of the class
            return getattr(self._base, self._name)
        return self._get(instance) if self._get else QtCore.QObject.property(instance, self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        if self._set:
            self._set(instance, value)
        elif not QtCore.QObject.setProperty(instance, self._name, value):
            raise AttributeError(f"{self._base.__name__}.{self._name} cannot be set")


def strict_class(slicer_class: str, base: type, extra: dict[str, Any] | None = None) -> type:
    """A class that behaves as `base` and shows itself as `slicer_class` does in PythonQt."""
    namespace: dict[str, Any] = {"slicer_class": slicer_class}
    if issubclass(base, QtCore.QObject):
        for name in digest().properties(slicer_class):
            own = name in vars(base) and isinstance(vars(base)[name], QtCore.Property | property)
            if name not in VIRTUAL and not own and base.staticMetaObject.indexOfProperty(name) >= 0:
                namespace[name] = QtProperty(base, name)
        namespace["name"] = QtProperty(base, "objectName")  # PythonQt's other name for it; slicer.util reads it
    return type(slicer_class.partition(".")[2], (Strict, base), namespace | (extra or {}))


@cache
def qt_class(name: str) -> Any:
    """A class of the `qt` module. Value types (colours, fonts, sizes) have no properties: they are Qt's own."""
    for module in (QtWidgets, QtGui, QtCore):
        if hasattr(module, name):
            base = getattr(module, name)
            break
    else:
        raise AttributeError(f"qt.{name} is in Slicer's Qt but not in Qt 6 for Python: use something else")
    slicer_class = f"qt.{name}"
    is_held = isinstance(base, type) and issubclass(base, QtCore.QObject | QtWidgets.QTableWidgetItem)
    if not digest().has_class(slicer_class) or not is_held or name in ("QApplication",):
        return base
    extra = {}
    if name == "QTableWidget":
        extra["__init__"] = _table_with_strict_headers
    return strict_class(slicer_class, base, extra)


def _table_with_strict_headers(self: Any, *arguments: Any) -> None:
    """A table's headers are reached through the table, so they too must be the strict kind."""
    QtWidgets.QTableWidget.__init__(self, *arguments)
    header = qt_class("QHeaderView")
    horizontal, vertical = header(QtCore.Qt.Horizontal), header(QtCore.Qt.Vertical)
    for created, own in ((horizontal, self.horizontalHeader()), (vertical, self.verticalHeader())):
        created.setSectionsClickable(own.sectionsClickable())
        created.setHighlightSections(own.highlightSections())
    self.setHorizontalHeader(horizontal)
    self.setVerticalHeader(vertical)
