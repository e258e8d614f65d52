"""The extension as the Extensions Index and Slicer's build see it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from desktop.harness.desktop import module_names
from desktop.harness.digest import digest
from desktop.harness.usage import problems

ROOT = Path(__file__).parents[2]

# The facts of slicer-extension-catalog-entry-schema-v1.0.1.json (Slicer/Slicer, Schemas/).
CATALOG_TYPES = {
    "$schema": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "category": str,
    "enabled": bool,
    "scm_revision": str,
    "scm_type": str,
    "scm_url": str,
    "tier": int,
}

# Stands for an installed Slicer: notes what is declared, and refuses files that do not exist, as the real macros do.
SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/Use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Report.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Use.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(BUILD_TESTING ON)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "nonexistent file ${file}")
    endif()
  endforeach()
  file(APPEND ${CMAKE_BINARY_DIR}/declared.txt "module ${MY_NAME}\\n")
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT" "" ${ARGN})
  file(APPEND ${CMAKE_BINARY_DIR}/declared.txt "test ${MY_SCRIPT}\\n")
endmacro()
"""
REPORT = """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  file(APPEND ${CMAKE_BINARY_DIR}/declared.txt "${name} ${EXTENSION_${name}}\\n")
endforeach()
"""


def test_catalog_entry_follows_the_schema():
    text = (ROOT / "Sacroplasty.json").read_bytes()
    assert b"\r" not in text
    entry = json.loads(text)
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= CATALOG_TYPES.keys()
    assert all(isinstance(value, CATALOG_TYPES[key]) for key, value in entry.items())
    assert re.search(r"catalog-entry-schema-v1\.0\.\d+\.json#$", entry["$schema"])
    assert 1 <= entry["tier"] <= 5
    assert entry["category"] == "IGT"
    assert re.search(r"^https://\S+/Slicer\w+\.git$", entry["scm_url"])


def test_icon_of_the_extension_is_a_png():
    data = (ROOT / "Sacroplasty.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == int.from_bytes(data[20:24], "big") == 128


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The build folder, configured and installed with a stand-in for Slicer's macros."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("build")
    slicer = folder / "slicer"
    slicer.mkdir()
    (slicer / "SlicerConfig.cmake").write_text(SLICER_CONFIG)
    (slicer / "Use.cmake").write_text("")
    (slicer / "Report.cmake").write_text(REPORT)
    build = folder / "build"
    # No compiler is needed for scripted modules, so that none has to be found.
    compilers = [f"-DCMAKE_{language}_COMPILER_FORCED=ON" for language in ("C", "CXX")]
    compilers += [f"-DCMAKE_{language}_COMPILER={shutil.which('true')}" for language in ("C", "CXX")]
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={slicer}", *compilers],
        [cmake, "--install", str(build), "--prefix", str(folder / "installed")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


def declared(folder):
    return (folder / "build" / "declared.txt").read_text().splitlines()


def test_build_declares_every_module_and_its_test(configured):
    lines = declared(configured)
    assert sorted(line.split()[1] for line in lines if line.startswith("module")) == module_names()
    assert sorted(line.split()[1] for line in lines if line.startswith("test")) == [f"{n}.py" for n in module_names()]


def test_build_describes_the_extension(configured):
    described = dict(line.split(" ", 1) for line in declared(configured))
    assert described["DEPENDS"] == "NA"
    assert "not a medical device" in described["DESCRIPTION"]
    assert "US 12582477" in described["DESCRIPTION"]
    pictures = [described["ICONURL"], *described["SCREENSHOTURLS"].split()]
    for url in pictures:
        path = re.fullmatch(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+\.png)", url)
        assert path, url
        assert (ROOT / path[1]).is_file(), f"{path[1]} is shown to users but not there"


def test_installed_engine_lies_beside_the_modules_and_can_be_imported(configured):
    folder = configured / "installed" / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    source = ROOT / "SacroplastyExtension" / "sacroplasty"
    wanted = {file.relative_to(source) for kind in ("py", "json", "html") for file in source.rglob(f"*.{kind}")}
    there = {file.relative_to(folder / "sacroplasty") for file in (folder / "sacroplasty").rglob("*") if file.is_file()}
    assert wanted <= there
    assert not [file for file in there if "__pycache__" in file.parts]


RUN_FILE = ROOT / "Testing" / "slicer" / "run.py"


def test_run_inside_slicer_uses_only_what_slicer_has():
    found = [problem for problem in problems(RUN_FILE, None, digest(), set()) if "qt.QFileInfo" not in problem]
    assert found == [], "qt.QFileInfo is in Slicer, only not in the record that the digest was cut from"
    for root, class_name in (
        ("slicer.app.moduleManager", "slicer.qSlicerModuleManager"),
        ("manager", "slicer.qSlicerModuleFactoryManager"),
        ("ctk.ctkWidgetsUtils", "ctk.ctkWidgetsUtils"),
    ):
        used = set(re.findall(rf"\b{re.escape(root)}(?:\(\))?\.(\w+)", RUN_FILE.read_text(encoding="utf-8")))
        assert used
        assert used <= digest().members(class_name)


def test_run_inside_slicer_counts_what_fails(desktop, monkeypatch, capsys):
    specification = importlib.util.spec_from_file_location("run_inside_slicer", RUN_FILE)
    run = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(run)
    assert [file.stem for file in run.module_files()] == module_names()
    monkeypatch.setattr(run, "load_modules", lambda files: 0.1)
    monkeypatch.setattr(run, "check_widget", lambda name: None)
    monkeypatch.setattr(run, "check_test", lambda name: None)
    assert run.main() == 0
    monkeypatch.setattr(run, "check_test", lambda name: 1 / 0)
    assert run.main() == len(module_names())
    monkeypatch.setattr(run, "load_modules", lambda files: 0.6)
    assert run.main() == len(module_names()) + 1, "a slow start-up is a failure"
    assert "FAILED SacroplastyPlanning test" in capsys.readouterr().out


def test_run_inside_slicer_opens_and_leaves_a_widget(desktop, monkeypatch):
    import slicer

    specification = importlib.util.spec_from_file_location("run_inside_slicer", RUN_FILE)
    run = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(run)
    widget = desktop.open_module("Sacroplasty")
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: widget)
    run.check_widget("Sacroplasty")
    assert desktop.connected_guis() == 0
    desktop.close(widget)
