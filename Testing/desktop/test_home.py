"""The home module on the desk: the steps, the sample patient, the packages."""

from __future__ import annotations


def test_an_empty_scene_shows_eleven_steps_and_only_the_first_two_are_ready(desktop):
    widget = desktop.open_module("Sacroplasty")
    explanations = {key: row[2].text for key, row in widget._rows.items()}
    assert len(explanations) == 11
    assert [key for key, text in explanations.items() if text.startswith("Ready")] == ["indication", "imaging"]
    desktop.close(widget)


def test_picture(desktop, tmp_path):
    from pathlib import Path

    widget = desktop.open_module("Sacroplasty")
    desktop.picture(widget, Path("/tmp/F1/home.png"))
    desktop.close(widget)
