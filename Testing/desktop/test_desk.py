"""The desk must not be kinder than Slicer: what a real Slicer would refuse is refused here."""

from __future__ import annotations

from typing import Annotated

import pytest

from desktop.harness.desktop import load_ui
from desktop.harness.digest import digest
from desktop.harness.parameter_node import Choice, WithinRange, parameterNodeWrapper
from desktop.harness.strict import MODULES
from desktop.harness.usage import heavy_imports, problems, read_form, untranslated_texts


def run_as_module_file(source, **names):
    """Run code as if it stood in a module file: only such code is held to the digest."""
    exec(compile(source, str(MODULES / "Example" / "Example.py"), "exec"), names)
    return names


def label(desktop):
    import qt

    return qt.QLabel("text")


def test_properties_are_attributes_and_their_getters_cannot_be_called(desktop):
    run_as_module_file("assert widget.text == 'text'\nwidget.text = 'new'", widget=(made := label(desktop)))
    assert made.text == "new"
    with pytest.raises(TypeError):
        run_as_module_file("widget.text()", widget=made)


def test_setters_that_pythonqt_keeps_work(desktop):
    run_as_module_file("widget.setText('slot')", widget=(made := label(desktop)))
    assert made.text == "slot"


@pytest.mark.parametrize("source", ["widget.noSuchThing", "widget.noSuchThing = 1", "getattr(widget, 'noSuchThing')"])
def test_a_module_file_cannot_touch_what_the_real_class_lacks(desktop, source):
    with pytest.raises(AttributeError, match=r"qt\.QLabel has no noSuchThing in Slicer"):
        run_as_module_file(source, widget=label(desktop))


def test_what_only_qt_for_python_has_is_refused_too(desktop):
    import qt

    assert "clicked" in digest().members("qt.QPushButton")
    with pytest.raises(AttributeError, match="has no staticMetaObject"):
        run_as_module_file("widget.staticMetaObject", widget=qt.QPushButton())


def test_a_signal_is_connected_by_its_exact_signature(desktop):
    import qt

    button, clicks = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda checked: clicks.append(checked))
    button.clicked.connect(lambda: clicks.append("plain"))
    button.click()
    assert clicks == [False, "plain"]
    with pytest.raises(AttributeError, match="no signal clicked"):
        button.connect("clicked(int)", print)


def test_a_class_that_slicer_lacks_cannot_be_made(desktop):
    import ctk

    with pytest.raises(AttributeError, match="not in the API digest"):
        _ = ctk.ctkImaginaryWidget


def test_the_application_offers_only_what_slicer_has(desktop):
    import slicer

    with pytest.raises(AttributeError, match="has no imaginary in Slicer"):
        _ = slicer.app.imaginary
    with pytest.raises(NotImplementedError, match="needs a real Slicer"):
        _ = slicer.app.openSettingsDialog


def test_stand_ins_are_put_away(host):
    import sys

    import slicer
    from desktop.harness.desktop import Desktop

    already = hasattr(slicer, "app")
    desk = Desktop(host)
    desk.set_up()
    assert "qt" in sys.modules
    desk.tear_down()
    assert hasattr(slicer, "app") == already


# The form reader


FORM = """<ui version="4.0"><widget class="qMRMLWidget" name="Top"><layout class="QVBoxLayout" name="layout">
<item><widget class="{widget}" name="child"/></item></layout></widget>
<connections><connection><sender>Top</sender><signal>{signal}</signal>
<receiver>child</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def test_a_form_hands_its_scene_to_the_widgets_connected_to_it(desktop, tmp_path):
    form = tmp_path / "form.ui"
    form.write_text(FORM.format(widget="qMRMLNodeComboBox", signal="mrmlSceneChanged(vtkMRMLScene*)"))
    widget = load_ui(str(form))
    widget.setMRMLScene(desktop.scene)
    import slicer

    ui = slicer.util.childWidgetVariables(widget)
    ui.child.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    assert ui.child.currentNode() is None
    node = desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert ui.child.currentNode() is node
    desktop.scene.RemoveNode(node)
    assert ui.child.currentNode() is None


@pytest.mark.parametrize(
    ("widget", "signal"),
    [
        ("ctkImaginaryWidget", "mrmlSceneChanged(vtkMRMLScene*)"),
        ("qMRMLNodeComboBox", "sceneChanged(vtkMRMLScene*)"),
        ("QLabel", "mrmlSceneChanged(vtkMRMLScene*)"),
    ],
)
def test_a_form_with_something_that_slicer_lacks_is_refused(desktop, tmp_path, widget, signal):
    form = tmp_path / "form.ui"
    form.write_text(FORM.format(widget=widget, signal=signal))
    with pytest.raises(RuntimeError):
        load_ui(str(form))


# Parameter nodes


def wrapper_class():
    import slicer

    class Parameters:
        depth: Annotated[float, WithinRange(0, 50)] = 20.0
        side: Annotated[str, Choice(["left", "right"])] = "left"
        count: int = 3
        shown: bool = True
        volume: slicer.vtkMRMLScalarVolumeNode

    Parameters.__annotations__ = {
        "depth": Annotated[float, WithinRange(0, 50)],
        "side": Annotated[str, Choice(["left", "right"])],
        "count": int,
        "shown": bool,
        "volume": slicer.vtkMRMLScalarVolumeNode,
    }
    return parameterNodeWrapper(Parameters)


def parameters(desktop):
    return wrapper_class()(desktop.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_parameters_are_stored_in_the_node_as_slicer_stores_them(desktop):
    made = parameters(desktop)
    made.volume = desktop.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    made.shown = False
    node = made.parameterNode
    assert (node.GetParameter("depth"), node.GetParameter("side"), node.GetParameter("count")) == ("20.0", "left", "3")
    assert node.GetParameter("shown") == "False"
    assert node.GetNodeReference("volume").GetName() == "CT"
    assert made.volume.GetName() == "CT"


def test_values_outside_the_annotation_are_refused(desktop):
    made = parameters(desktop)
    for name, value in (("depth", 51.0), ("side", "middle"), ("count", 1.5), ("depth", None), ("shown", "yes")):
        with pytest.raises((ValueError, TypeError)):
            setattr(made, name, value)
    assert (made.depth, made.side, made.count) == (20.0, "left", 3)


def test_widgets_and_parameters_follow_each_other_until_they_are_disconnected(desktop):
    from types import SimpleNamespace

    import ctk
    import qt

    made = parameters(desktop)
    gui = SimpleNamespace(depth=ctk.ctkSliderWidget(), side=qt.QComboBox(), shown=qt.QCheckBox())
    for name, widget in vars(gui).items():
        widget.setProperty("SlicerParameterName", name)
    tag = made.connectGui(gui)
    assert (gui.depth.value, gui.depth.maximum, gui.side.count, gui.shown.checked) == (20.0, 50.0, 2, True)
    gui.depth.value = 31.0
    gui.side.currentIndex = 1
    assert (made.depth, made.side) == (31.0, "right")
    made.depth = 12.0
    assert gui.depth.value == 12.0
    made.disconnectGui(tag)
    gui.depth.value = 44.0
    made.shown = False
    assert made.depth == 12.0
    assert gui.shown.checked


def test_a_widget_that_slicer_could_not_tie_to_the_type_is_refused(desktop):
    from types import SimpleNamespace

    import qt

    made = parameters(desktop)
    line = qt.QLineEdit()
    line.setProperty("SlicerParameterName", "depth")
    with pytest.raises(RuntimeError, match="cannot tie QLineEdit"):
        made.connectGui(SimpleNamespace(line=line))


# Reading the source


def example(tmp_path, source, form=None):
    file = tmp_path / "Example.py"
    file.write_text(source, encoding="utf-8")
    if form is None:
        return file, None
    path = tmp_path / "Example.ui"
    path.write_text(form, encoding="utf-8")
    return file, read_form(path)


@pytest.mark.parametrize(
    "line",
    [
        "slicer.util.noSuchFunction()",
        "slicer.app.noSuchThing()",
        "slicer.modules.nosuchmodule.logic()",
        "qt.QLabel.noSuchMember",
        "qt.QImaginary()",
        "qt.Qt.NoSuchFlag",
        "ctk.ctkImaginary()",
        "slicer.qMRMLImaginary()",
        "slicer.vtkMRMLImaginaryNode()",
        "from slicer.util import noSuchFunction",
        "from slicer import vtkMRMLImaginaryNode",
    ],
)
def test_reading_the_source_finds_what_slicer_lacks(tmp_path, line):
    file, _ = example(tmp_path, f"import ctk, qt, slicer\n{line}\n")
    assert len(problems(file, None, digest(), set())) == 1


def test_reading_the_source_accepts_what_slicer_has(tmp_path):
    file, _ = example(
        tmp_path,
        "import qt, slicer\nfrom slicer import vtkMRMLScalarVolumeNode\nqt.QLabel.setText\nqt.Qt.AlignCenter\n"
        "slicer.util.loadUI('x')\nslicer.app.applicationLogic()\nslicer.modules.markups.logic()\nslicer.modules.mine\n",
    )
    assert problems(file, None, digest(), {"mine"}) == []


def test_reading_the_source_compares_with_the_form(tmp_path):
    form = '<ui><widget class="QWidget" name="Top"><widget class="QLabel" name="status"/></widget></ui>'
    file, read = example(tmp_path, "self.ui.status.text = 1\nself.ui.status.checked\nself.ui.missing.text\n", form)
    found = problems(file, read, digest(), set())
    assert len(found) == 2
    assert "QLabel (self.ui.status) has no checked" in found[0]
    assert "no widget missing" in found[1]


def test_heavy_imports_are_found_at_file_scope_only(tmp_path):
    source = (
        "import os, numpy, vtk\ntry:\n    import scipy\nexcept ImportError:\n    pass\ndef f():\n    import torch\n"
    )
    file, _ = example(tmp_path, source)
    assert heavy_imports(file) == {"scipy"}


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("label.text = 'Plan'", True),
        ("label.text = _('Plan')", False),
        ("label.text = f'{x} mm'", False),
        ("label.text = f'{x} left'", True),
        ("label.toolTip = _('a') if x else 'no plan'", True),
        ("qt.QLabel('Plan')", True),
        ("slicer.util.errorDisplay(_('no'))", False),
        ("x = _(f'{y} mm')", True),
        ("label.text = _('{n} mm').format(n=3)", False),
        ("label.styleSheet = 'color: red'", False),
    ],
)
def test_texts_that_cannot_be_translated_are_found(tmp_path, line, bare):
    file, _ = example(tmp_path, line + "\n")
    assert bool(untranslated_texts(file)) == bare


def test_the_application_of_the_desk_has_nothing_that_slicer_lacks(desktop):
    import slicer

    own = {name for name in dir(slicer.app) if not name.startswith("_")}
    assert own <= digest().members("slicer.app")
