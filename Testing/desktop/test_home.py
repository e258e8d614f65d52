"""The home module: steps and sample patient."""

from __future__ import annotations

import pytest


@pytest.fixture
def home(desktop):
    widget = desktop.open_module("Sacroplasty")
    yield widget
    desktop.close(widget)


def shown_states(widget):
    """State words as they stand on screen, by step."""
    return {key: row[2].text.partition(":")[0] for key, row in widget._rows.items()}


def test_an_empty_scene_shows_eleven_steps_and_only_the_first_two_are_ready(home):
    states = shown_states(home)
    assert len(states) == 11
    assert [key for key, state in states.items() if state == "Ready"] == ["indication", "imaging"]
    assert set(states.values()) == {"Ready", "To do"}


def test_a_finished_step_makes_the_next_one_ready_without_leaving_the_module(desktop, home):
    from sacroplasty.scene.planning import RECORD_NAME
    from sacroplasty.scene.records import write_record

    write_record(desktop.scene, RECORD_NAME, {"trajectories": [{"accepted": True}, {"accepted": False}]})
    desktop.wait(home.REFRESH_DELAY_MS + 100)
    states = shown_states(home)
    assert (states["plan"], states["position"]) == ("Done", "Ready")


def test_a_plan_without_an_acceptable_trajectory_is_shown_as_blocked(desktop, home):
    from sacroplasty.scene.planning import RECORD_NAME
    from sacroplasty.scene.records import write_record

    write_record(desktop.scene, RECORD_NAME, {"trajectories": [{"accepted": False}]})
    desktop.wait(home.REFRESH_DELAY_MS + 100)
    states = shown_states(home)
    assert (states["plan"], states["position"]) == ("Blocked", "To do")


def test_hiding_done_steps_hides_only_those(desktop, home):
    from sacroplasty.scene.workflow import write_step

    write_step(desktop.scene, "indication", accepted=True, reasons=[])
    home.ui.hideDoneCheckBox.click()
    desktop.wait(home.REFRESH_DELAY_MS + 100)
    hidden = [key for key, row in home._rows.items() if row[3].isHidden()]
    assert hidden == ["indication"]


def test_each_button_opens_the_module_of_its_step(desktop, home):
    for row in home._rows.values():
        row[3].click()
    opened = [arguments[0] for name, arguments in desktop.calls if name == "selectModule"]
    assert len(opened) == 11
    assert opened[2] == "SacroplastyPlanning"


def test_sample_patient_is_registered_at_start_up_and_fetched_only_on_a_click(desktop, home):
    desktop.start_up()
    assert [source["sampleName"] for source in desktop.samples] == ["SacroplastySampleCT", "SacroplastySampleBones"]
    for source in desktop.samples:
        algorithm, _, checksum = source["checksums"].partition(":")
        assert algorithm == "SHA256"
        assert len(checksum) == 64
        assert source["uris"].startswith("https://")
    assert desktop.calls == []
    home.ui.sampleButton.click()
    assert [arguments[0] for name, arguments in desktop.calls if name == "downloadSample"] == [
        "SacroplastySampleCT",
        "SacroplastySampleBones",
    ]


def test_a_failing_download_is_shown_and_the_module_goes_on(desktop, home, monkeypatch):
    import SampleData

    def fail(name):
        raise RuntimeError("no network")

    monkeypatch.setattr(SampleData, "downloadSample", fail)
    home.ui.sampleButton.click()
    assert any(name == "errorDisplay" and "no network" in arguments[0] for name, arguments in desktop.calls)
    assert [str(error) for error in desktop.slot_errors] == ["no network"]
    desktop.slot_errors.clear()
    assert shown_states(home)["imaging"] == "Ready"


def test_every_module_named_by_a_step_is_one_of_this_extension(home):
    from desktop.harness.strict import MODULES

    for step in home.logic.steps():
        assert (MODULES / step.module).is_dir()


def test_an_opened_case_is_shown_in_slice_views_that_are_empty_and_in_no_others(desktop, home, monkeypatch):
    import slicer
    from sacroplasty.scene import nodes
    from scene.simple_case import make_ct

    monkeypatch.setattr(slicer.app, "layoutManager", lambda: "a main window is there")
    views = desktop.scene.CreateNodeByClass("vtkMRMLSliceCompositeNode")
    views.UnRegister(None)
    views.SetSingletonTag("Red")
    desktop.scene.AddNode(views)
    ct = nodes.add_volume(desktop.scene, make_ct(), "CT")
    desktop.wait(home.REFRESH_DELAY_MS + 100)
    assert ("setSliceViewerLayers", (ct, True)) in desktop.calls
    desktop.calls.clear()
    views.SetBackgroundVolumeID(ct.GetID())
    home.refresh()
    assert desktop.calls == []
