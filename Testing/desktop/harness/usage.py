"""What a module file uses of Slicer, read from its source, and whether a real Slicer offers it."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .digest import Digest

# What Slicer's extension index accepts at file scope beside the standard library; anything else slows every start-up.
FILE_SCOPE_PACKAGES = {"slicer", "qt", "ctk", "vtk", "numpy"}
# The namespace object of Qt itself. The API digest lists classes only; Qt's own enumerations are checked against Qt.
QT_NAMESPACE = "qt.Qt"


@dataclass(frozen=True)
class Use:
    """One dotted name, such as `slicer.util.loadUI`, and where it stands."""

    name: str
    line: int


@dataclass(frozen=True)
class Form:
    """A .ui file: the class of every named widget, the classes used, and its connections."""

    widgets: dict[str, str]
    classes: frozenset[str]
    connections: tuple[tuple[str, str, str, str], ...]
    parameters: dict[str, str]


def read_form(path: Path) -> Form:
    """Read a Qt Designer file; `parameters` maps a parameter name to the widget it is tied to."""
    root = ElementTree.parse(path).getroot()
    widgets = {element.attrib["name"]: element.attrib["class"] for element in root.iter("widget")}
    layouts = {element.attrib["class"] for element in root.iter("layout")}
    connections = tuple(
        (
            connection.findtext("sender", ""),
            connection.findtext("signal", ""),
            connection.findtext("receiver", ""),
            connection.findtext("slot", ""),
        )
        for connection in root.iter("connection")
    )
    parameters = {
        str(prop.findtext("string")): element.attrib["name"]
        for element in root.iter("widget")
        for prop in element.findall("property")
        if prop.attrib["name"] == "SlicerParameterName"
    }
    return Form(widgets, frozenset({*widgets.values(), *layouts}), connections, parameters)


def qualified(class_name: str) -> str:
    """The Python name of a class named in a .ui file: `QLabel` -> `qt.QLabel`."""
    if class_name.startswith("ctk"):
        return f"ctk.{class_name}"
    if class_name.startswith(("qMRML", "qSlicer")):
        return f"slicer.{class_name}"
    return f"qt.{class_name}"


def dotted_names(tree: ast.AST) -> Iterator[Use]:
    """Every attribute chain, longest form first come: `a.b.c` yields `a.b.c` once, not `a.b`."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Attribute):
                inner.add(id(node.value))
            if id(node) in inner:
                continue
            parts: list[str] = []
            part: ast.expr = node
            while isinstance(part, ast.Attribute):
                parts.append(part.attr)
                part = part.value
            if isinstance(part, ast.Name):
                yield Use(".".join([part.id, *reversed(parts)]), node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield Use(f"{node.module}.{alias.name}", node.lineno)


def slicer_uses(tree: ast.AST) -> list[Use]:
    """The dotted names rooted at slicer, qt or ctk."""
    return [use for use in dotted_names(tree) if use.name.split(".")[0] in ("slicer", "qt", "ctk")]


def classes_used(module_file: Path, form: Form | None) -> set[str]:
    """The qt, ctk and qMRML classes that a module file and its .ui use, by Python name."""
    found = {qualified(name) for name in form.classes} if form else set()
    for use in slicer_uses(ast.parse(module_file.read_text(encoding="utf-8"))):
        parts = use.name.split(".")
        if parts[0] in ("qt", "ctk") or parts[1].startswith(("qMRML", "qSlicer")):
            found.add(".".join(parts[:2]))
    return found - {QT_NAMESPACE}


def problems(module_file: Path, form: Form | None, digest: Digest, sibling_modules: set[str]) -> list[str]:
    """Everything a module file touches that a real Slicer does not have, as `file:line: what`."""
    tree = ast.parse(module_file.read_text(encoding="utf-8"))
    found = [
        f"{module_file.name}:{use.line}: {complaint}"
        for use in slicer_uses(tree)
        if (complaint := _complaint(use.name.split("."), digest, sibling_modules))
    ]
    if form is not None:
        found += _form_problems(module_file, tree, form, digest)
    return found


def _complaint(parts: list[str], digest: Digest, sibling_modules: set[str]) -> str:
    root, head, rest = parts[0], parts[1], parts[2:]
    name = ".".join(parts)
    if root in ("qt", "ctk") or head.startswith(("qMRML", "qSlicer")):
        if f"{root}.{head}" == QT_NAMESPACE:
            return _qt_namespace_complaint(rest)
        if head == "*":
            return f"{name}: name what is used instead of *"
        if not digest.has_class(f"{root}.{head}"):
            return f"{root}.{head} is not in the API digest; if Slicer has it, run Testing/desktop/make_digest.py"
        if rest and rest[0] not in digest.members(f"{root}.{head}"):
            return f"{root}.{head} has no {rest[0]} in Slicer"
        return ""
    if head in ("util", "packaging", "i18n", "parameterNodeWrapper", "ScriptedLoadableModule"):
        known = digest.python_names(f"slicer.{head}")
        return f"{name} is not in Slicer" if rest and rest[0] not in known and rest[0] != "*" else ""
    if head == "app":
        return f"slicer.app has no {rest[0]}" if rest and rest[0] not in digest.members("slicer.app") else ""
    if head == "modules":
        known = digest.module_names | sibling_modules
        return f"Slicer has no module {rest[0]}" if rest and rest[0] not in known else ""
    if head in ("mrmlScene", "selfTests"):
        return ""
    return "" if _slicer_core_has(head) else f"{name} is neither in slicer-core nor in the API digest"


def _slicer_core_has(name: str) -> bool:
    import slicer

    return name.startswith("vtk") and hasattr(slicer, name)


def _qt_namespace_complaint(rest: list[str]) -> str:
    from PySide6.QtCore import Qt

    value: object = Qt
    for part in rest:
        if not hasattr(value, part):
            return f"qt.Qt has no {'.'.join(rest)}"
        value = getattr(value, part)
    return ""


def _form_problems(module_file: Path, tree: ast.AST, form: Form, digest: Digest) -> list[str]:
    found = []
    for use in dotted_names(tree):
        parts = use.name.split(".")
        if parts[:2] != ["self", "ui"] or len(parts) < 3:
            continue
        where = f"{module_file.name}:{use.line}"
        if parts[2] not in form.widgets:
            found.append(f"{where}: the .ui has no widget {parts[2]}")
            continue
        class_name = qualified(form.widgets[parts[2]])
        if len(parts) > 3 and digest.has_class(class_name) and parts[3] not in digest.members(class_name):
            found.append(f"{where}: {class_name} (self.ui.{parts[2]}) has no {parts[3]} in Slicer")
    for sender, signal, receiver, slot in form.connections:
        for name, member, offered in (
            (sender, signal, digest.signals),
            (receiver, slot, digest.slots),
        ):
            if name not in form.widgets:
                found.append(f"{module_file.stem}.ui: connection names {name}, which is no widget")
            elif member not in offered(qualified(form.widgets[name])):
                found.append(f"{module_file.stem}.ui: {form.widgets[name]} ({name}) has no {member}")
    return found


def file_scope_imports(module_file: Path) -> set[str]:
    """Top-level package names imported when the file is imported (not inside functions)."""
    names: set[str] = set()
    pending: list[ast.stmt] = list(ast.parse(module_file.read_text(encoding="utf-8")).body)
    while pending:
        statement = pending.pop()
        if isinstance(statement, ast.Import):
            names |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            names.add((statement.module or "").split(".")[0])
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
    return names


def heavy_imports(module_file: Path) -> set[str]:
    """File-scope imports that a module file may not make."""
    return {
        name
        for name in file_scope_imports(module_file)
        if name not in FILE_SCOPE_PACKAGES and name not in sys.stdlib_module_names
    }


# Calls and attributes that put text before a person.
_TEXT_CALLS = {
    "QLabel",
    "QPushButton",
    "QCheckBox",
    "QTableWidgetItem",
    "addItem",
    "addRow",
    "addTab",
    "errorDisplay",
    "infoDisplay",
    "setHorizontalHeaderLabels",
    "setText",
    "setTitle",
    "setToolTip",
    "setWindowTitle",
    "showStatusMessage",
    "tryWithErrorDisplay",
    "warningDisplay",
}
_TEXT_ATTRIBUTES = {"text", "toolTip", "title", "helpText", "acknowledgementText", "windowTitle", "placeholderText"}


def untranslated_texts(module_file: Path) -> list[str]:
    """Texts put before a person without `_()`, and f-strings inside `_()`, as `line: text`."""
    tree = ast.parse(module_file.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "_" and not all(isinstance(argument, ast.Constant) for argument in node.args):
                found.append(f"{node.lineno}: only a plain text can be translated: {ast.unparse(node)}")
            if called in _TEXT_CALLS:
                found += _bare_texts(node.args)
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Attribute) and target.attr in _TEXT_ATTRIBUTES for target in node.targets
        ):
            found += _bare_texts([node.value])
    return found


def _bare_texts(expressions: list[ast.expr]) -> list[str]:
    """Words in these expressions that are not inside a call of `_` or `translate`, nor keys and markup."""
    found = []
    pending: list[ast.AST] = list(expressions)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("_", "translate"):
                continue
            # Of other calls only what they are called on is shown: "{}".format(...), ", ".join(...).
            pending.append(node.func)
            continue
        if isinstance(node, ast.Subscript):
            continue
        if isinstance(node, ast.IfExp):
            pending += [node.body, node.orelse]
            continue
        if isinstance(node, ast.Compare | ast.FormattedValue):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = re.sub(r"<[^>]*>|\{[^}]*\}|\b(mm|mL|s|kPa|HU|deg|G|Hz|ms|mL/s)\b", "", node.value)
            if re.search(r"[A-Za-z]{2}", words):
                found.append(f"{node.lineno}: {node.value}")
            continue
        pending += list(ast.iter_child_nodes(node))
    return found
