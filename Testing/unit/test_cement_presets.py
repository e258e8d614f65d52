"""Cements as data: what the package brings, and what a file may not say."""

import json
import math
from importlib import resources

import pytest

from sacroplasty.cement.presets import (
    LARGEST_CONSISTENCY_PA_SN,
    default_preset,
    load_presets,
    read_preset,
    read_presets,
)
from sacroplasty.errors import DocumentError


def document() -> dict:
    return json.loads(resources.files("sacroplasty").joinpath("cement", "cements.json").read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path):
    def write(content: dict):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def one_cement() -> dict:
    content = document()
    content["cements"] = {"mine": content["cements"]["generic-high-viscosity"]}
    return content


def test_no_preset_claims_to_be_verified_and_every_figure_has_a_source():
    presets = load_presets()
    assert len(presets) >= 5
    for key, preset in presets.items():
        assert preset.key == key and not preset.verified
        assert "not a verified product" in preset.name
        assert all(source.text for source in preset.sources.values())
        assert set(preset.sources) >= {"working_from_s", "working_until_s", "flow", "activation_energy_kj_mol"}


def test_published_figures_name_where_they_were_published():
    for preset in load_presets().values():
        for source in preset.sources.values():
            if source.confidence == "published":
                assert "doi" in source.text or "Tabilo" in source.text


def test_flow_is_that_of_the_points_and_grows_evenly_on_a_logarithmic_scale_between():
    preset = default_preset()
    assert preset.fluid(240.0).consistency_pa_sn == pytest.approx(200.0)
    assert preset.fluid(600.0).consistency_pa_sn == pytest.approx(1000.0)
    assert preset.fluid(420.0).consistency_pa_sn == pytest.approx(math.sqrt(200.0 * 1000.0))
    assert preset.growth_per_s(420.0) == pytest.approx(math.log(5) / 360)
    assert preset.fluid(700.0).consistency_pa_sn > 1000.0
    assert preset.fluid(1e6).consistency_pa_sn == pytest.approx(LARGEST_CONSISTENCY_PA_SN)
    assert math.isnan(preset.fluid(math.nan).consistency_pa_sn)
    assert math.isnan(preset.fluid(-1.0).flow_index)


def test_low_viscosity_cement_becomes_shear_thinning():
    preset = load_presets()["generic-low-viscosity"]
    assert preset.fluid(100.0).flow_index == pytest.approx(0.8)
    assert preset.fluid(510.0).flow_index == pytest.approx(0.65)


def test_a_curve_of_ones_own_is_read(written):
    content = one_cement()
    content["cements"]["mine"]["figures"]["flow"] = {
        "value": [[0, 10, 0.9], [100, 50, 0.8], [500, 900, 0.5]],
        "source": "measured on our own rheometer",
        "confidence": "published",
    }
    preset = read_preset(written(content))
    assert preset.fluid(100.0).consistency_pa_sn == pytest.approx(50.0)
    assert preset.sources["flow"].text == "measured on our own rheometer"


def test_one_preset_is_not_guessed_from_several(written):
    with pytest.raises(DocumentError, match="holds 6 cements"):
        read_preset(written(document()))
    assert len(read_presets(written(document()))) == 6


def spoil(content: dict, change) -> dict:
    change(content["cements"]["mine"])
    return content


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda one: one.update(color="blue"), "must not contain color"),
        (lambda one: one["figures"].update(shelf_life_s={"value": 1, "source": "x", "confidence": "assumed"}), "shelf"),
        (lambda one: one["figures"]["flow"].update(unit="Pa s"), "must not contain unit"),
        (lambda one: one["figures"]["mixed_s"].pop("source"), "source"),
        (lambda one: one["figures"]["mixed_s"].update(confidence="certain"), "confidence"),
        (lambda one: one["figures"]["mixed_s"].update(value=-5), "at least 0"),
        (lambda one: one["figures"]["working_until_s"].update(value=100), "follow each other"),
        (lambda one: one["figures"]["flow"].update(value=[[0, 10, 0.5]]), "at least 2"),
        (lambda one: one["figures"]["flow"].update(value=[[0, 10, 0.5], [0, 20, 0.5]]), "order of age"),
        (lambda one: one["figures"]["flow"].update(value=[[0, 30, 0.5], [9, 20, 0.5]]), "only grows stiffer"),
        (lambda one: one["figures"]["flow"].update(value=[[0, 0, 0.5], [9, 20, 0.5]]), "not above 0"),
        (lambda one: one["figures"]["flow"].update(value=[[0, 1, 0.5], [9, 20, 7]]), "flow index"),
        (lambda one: one["figures"]["activation_energy_kj_mol"].update(value=[60, 40]), "above its highest"),
    ],
)
def test_what_a_file_may_not_say_is_refused_by_name(written, change, word):
    with pytest.raises(DocumentError, match=word) as refused:
        read_presets(written(spoil(one_cement(), change)))
    assert "mine.json" in str(refused.value)


def test_files_of_newer_programs_and_of_other_kinds_are_refused(written):
    newer = document()
    newer["schema"]["version"] = 99
    with pytest.raises(DocumentError, match="update it"):
        read_presets(written(newer))
    with pytest.raises(DocumentError, match="no cements document"):
        read_presets(written({"schema": {"name": "plan", "version": 1}}))
