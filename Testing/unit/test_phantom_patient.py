"""The synthetic patient: its truth must be consistent in itself and its CT must show it."""

import json
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL, LEVELS, NERVE_BORDER, REGION_LABEL, SIDES, VESSELS
from sacroplasty.cli.phantom import command
from sacroplasty.errors import AnatomyError, DocumentError, ImageError
from sacroplasty.geometry import invert_rigid, transform_points
from sacroplasty.image import check_ct, write_volume
from sacroplasty.phantom import make_phantom
from sacroplasty.phantom.files import read_phantom, write_phantom
from sacroplasty.phantom.grid import make_grid
from sacroplasty.phantom.parameters import draw_parameters
from sacroplasty.phantom.sacrum import Sacrum

COARSE_MM = (1.7, 1.7, 1.7)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, spacing_mm=COARSE_MM, fracture="left", noise_hu=0.0)


@pytest.fixture(scope="module")
def sound():
    """The same patient before the fracture."""
    return make_phantom(3, spacing_mm=COARSE_MM, noise_hu=0.0)


@pytest.fixture(scope="module", params=[0, 11])
def sacrum(request):
    return Sacrum(draw_parameters(request.param))


def label_at(volume, point):
    return int(volume.voxels[tuple(np.round(volume.kji_of(point)).astype(int))])


def test_the_ct_passes_for_a_pelvic_ct_and_all_volumes_share_its_grid(phantom):
    check_ct(phantom.ct, "phantom")
    assert phantom.ct.voxels.dtype == np.int16
    assert phantom.bones.same_grid(phantom.ct) and phantom.regions.same_grid(phantom.ct)
    assert phantom.bones.voxels.dtype == phantom.regions.voxels.dtype == np.uint8
    assert phantom.ct.spacing_mm == pytest.approx(COARSE_MM)


def test_every_structure_is_there(phantom):
    assert set(np.unique(phantom.bones.voxels)) == {0, *BONE_LABEL.values()}
    assert set(np.unique(phantom.regions.voxels)) == {0, *REGION_LABEL.values()} - {
        REGION_LABEL[VESSELS],
        REGION_LABEL[NERVE_BORDER],
    }
    assert set(phantom.foramina) == {f"foramen_{level}_{side}" for level in LEVELS for side in SIDES}


def test_bones_are_whole_and_do_not_touch_the_edges_but_where_the_scan_ends(phantom):
    for name in ("sacrum", "l5"):
        mask = phantom.bones.voxels == BONE_LABEL[name]
        parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
        largest = np.bincount(parts.ravel())[1:].max()
        assert largest / mask.sum() > 0.995, f"{name} falls into {count} pieces"
        assert not mask[0].any() and not mask[-1].any()


def test_left_structures_lie_on_the_left(phantom):
    RASToSacrum = invert_rigid(phantom.SacrumToRAS)
    for volume, names in ((phantom.bones, BONE_LABEL), (phantom.regions, REGION_LABEL)):
        for name, label in names.items():
            if name.endswith(("_left", "_right")):
                center = volume.ras_of(np.argwhere(volume.voxels == label).mean(axis=0))
                assert (transform_points(RASToSacrum, center)[0] > 0) == name.endswith("_left"), name
    assert phantom.landmarks["asis_left"][0] < phantom.landmarks["asis_right"][0]  # RAS x points to the right


def test_the_hips_keep_the_joint_gap_to_the_sacrum(phantom):
    spacing = phantom.ct.spacing_mm[::-1]
    to_sacrum = ndimage.distance_transform_edt(phantom.bones.voxels != BONE_LABEL["sacrum"], sampling=spacing)
    for side in SIDES:
        gap = to_sacrum[phantom.bones.voxels == BONE_LABEL[f"hip_{side}"]].min()
        width = phantom.si_joint_mm[SIDES.index(side)]
        assert width - 1.0 <= gap <= width + 2.5  # centre to centre of 1.7 mm voxels


def test_posterior_foramina_follow_each_other_down_and_towards_the_midline(phantom):
    RASToSacrum = invert_rigid(phantom.SacrumToRAS)
    for side in SIDES:
        points = [
            transform_points(RASToSacrum, phantom.foramina[f"foramen_{level}_{side}"].posterior.center_ras)
            for level in LEVELS
        ]
        for upper, lower in pairwise(points):
            assert lower[2] < upper[2] - 10
            assert abs(lower[0]) < abs(upper[0]) + 2


def test_openings_lie_on_the_bone_surface_with_the_channel_between_them(sacrum):
    for name, channel in sacrum.channels.items():
        ends = np.array([channel.anterior, channel.posterior, channel.lateral_edge], np.float32)
        assert sacrum.envelope(*ends.T) == pytest.approx([0, 0, 0], abs=0.1), name
        along = channel.anterior + np.linspace(0, 1, 20)[:, None] * (channel.posterior - channel.anterior)
        assert (sacrum.channel_field(name, *along.astype(np.float32).T) < -1.5).all(), name
        assert abs(channel.lateral_edge[0]) > abs(channel.posterior[0]) + 1.5
        assert channel.posterior[1] > channel.anterior[1] and np.linalg.norm(channel.posterior - channel.anterior) > 8


def test_the_anterior_opening_is_as_wide_as_drawn(sacrum):
    """Width measured on the channel field itself along a line through the opening."""
    for name, channel in sacrum.channels.items():
        offsets = np.arange(-12, 12, 0.05)
        axis = channel.posterior - channel.anterior
        across = np.cross(axis, np.cross([1.0, 0, 0], axis))
        across /= np.linalg.norm(across)
        line = (channel.anterior - 0.5 * axis / np.linalg.norm(axis)) + offsets[:, None] * across
        inside = sacrum.channel_field(name, *line.astype(np.float32).T) < 0
        assert np.count_nonzero(inside) * 0.05 == pytest.approx(2 * channel.anterior_radii_mm[1], abs=0.4), name


def test_canal_and_foramina_hold_no_bone_and_join(sacrum):
    grid = np.meshgrid(*(np.arange(a, b, 1.0) for a, b in ((-110, 5), (-35, 65), (-60, 60))), indexing="ij")
    z, y, x = (c.astype(np.float32) for c in grid)
    curved = sacrum.curved(y, z)
    canal = sacrum.canal(x, y, z, curved)
    channels = {name: sacrum.channel_field(name, x, y, z) for name in sacrum.channels}
    bone = sacrum.bone(x, y, z, sacrum.envelope(x, y, z, curved), canal, channels)
    assert not ((bone < 0) & (canal < 0)).any()
    parts, _ = ndimage.label((canal < 0) | np.logical_or.reduce([channel < 0 for channel in channels.values()]))
    in_canal = np.unique(parts[canal < -2])
    for name, channel in channels.items():
        assert not ((bone < 0) & (channel < 0)).any(), name
        assert parts[channel < -2].max() in in_canal, name


def test_the_bone_field_is_a_distance_near_the_surface(sacrum):
    grid = np.meshgrid(*(np.arange(a, b, 1.0) for a, b in ((-100, 5), (-35, 65), (-60, 60))), indexing="ij")
    z, y, x = (c.astype(np.float32) for c in grid)
    field = sacrum.envelope(x, y, z)
    inside = field < 0
    exact = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    exact -= 0.5 * np.sign(exact)
    near = np.abs(field) < 2
    error = np.abs(field - exact)[near]
    assert np.median(error) < 0.45 and np.percentile(error, 90) < 1.2


def test_alae_are_as_dark_as_asked_and_the_bodies_are_not_touched_by_that(sound):
    bright = make_phantom(3, spacing_mm=COARSE_MM, ala_hu=90.0, noise_hu=0.0)
    for made, ala_hu in ((sound, -50.0), (bright, 90.0)):
        for side in SIDES:
            wing = made.regions.voxels == REGION_LABEL[f"ala_{side}"]
            core = ndimage.binary_erosion(wing, iterations=3)
            assert np.median(made.ct.voxels[core]) == pytest.approx(ala_hu, abs=25)
        body = ndimage.binary_erosion(made.regions.voxels == REGION_LABEL["body_s1"], iterations=3)
        assert np.median(made.ct.voxels[body]) == pytest.approx(made.parameters.body_hu, rel=0.35)


def test_noise_has_the_asked_strength(sound):
    loud = make_phantom(3, spacing_mm=COARSE_MM, noise_hu=30.0)
    difference = loud.ct.voxels.astype(float) - sound.ct.voxels
    soft = sound.ct.voxels > -500
    assert difference[soft].std() == pytest.approx(30, rel=0.05)
    assert difference[soft].mean() == pytest.approx(0, abs=1)


def test_another_seed_gives_another_patient():
    assert draw_parameters(3) == draw_parameters(3) != draw_parameters(4)


def test_the_voxel_size_does_not_change_the_patient(phantom):
    thick = make_phantom(3, spacing_mm=(1.7, 1.7, 5.0))
    for name, foramen in phantom.foramina.items():
        assert thick.foramina[name].anterior.center_ras == pytest.approx(foramen.anterior.center_ras, abs=1e-9)
    for label in BONE_LABEL.values():
        volumes = [(p.bones.voxels == label).sum() * p.ct.voxel_volume_ml for p in (phantom, thick)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.08)


def test_a_fracture_lies_in_its_ala_and_shows_in_the_ct(phantom, sound):
    (fracture,) = phantom.fractures
    assert label_at(phantom.regions, fracture.point_ras) == REGION_LABEL["ala_left"]
    assert sound.fractures == ()
    changed = np.abs(sound.ct.voxels.astype(int) - phantom.ct.voxels) > 20
    points = phantom.ct.ras_of(np.argwhere(changed))
    from_plane = np.abs((points - fracture.point_ras) @ fracture.normal_ras)
    assert changed.sum() > 200 and from_plane.max() < 9
    assert (phantom.bones.voxels == sound.bones.voxels).all()


def test_landmarks_are_where_their_names_say(phantom):
    RASToSacrum = invert_rigid(phantom.SacrumToRAS)
    points = {name: transform_points(RASToSacrum, point) for name, point in phantom.landmarks.items()}
    assert points["s1_endplate_center"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert points["promontory"][1] < -12 and abs(points["promontory"][2]) < 8
    assert points["median_crest_s1"][1] > 25 and points["median_crest_s3"][2] < points["median_crest_s1"][2] - 30
    assert points["apex"][2] < points["sacral_hiatus"][2]
    for side in SIDES:
        psis, asis = phantom.landmarks[f"psis_{side}"], phantom.landmarks[f"asis_{side}"]
        assert 120 < np.linalg.norm(psis - asis) < 190
        for point in (psis, asis):
            k, j, i = np.round(phantom.bones.kji_of(point)).astype(int)
            near = phantom.bones.voxels[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2]
            assert (near == BONE_LABEL[f"hip_{side}"]).any()


def test_the_endplate_leans_by_the_sacral_slope(phantom):
    superior = phantom.SacrumToRAS[:3, 2]
    assert np.degrees(np.arccos(superior[2])) == pytest.approx(phantom.parameters.sacral_slope_deg, abs=2.5)
    assert superior[1] > 0  # forwards


def test_seeds_give_people_within_the_published_ranges():
    people = [draw_parameters(seed) for seed in range(200)]
    slopes = np.array([person.sacral_slope_deg for person in people])
    assert slopes.min() >= 24 and slopes.max() <= 55 and 37 < slopes.mean() < 42
    joints = np.array([person.si_joint_mm for person in people])
    assert joints.min() >= 1 and joints.max() <= 3


def test_voxel_centres_of_the_grid_are_sample_centres():
    grid = make_grid((-20, -20, -20), (20, 20, 20), (1.0, 2.0, 5.0), np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert grid.factors == (1, 3, 3)
    (block,) = grid.blocks()
    centers = np.stack([grid.centers(c) for c in (block.x, block.y, block.z)], axis=-1)
    indices = np.moveaxis(np.indices(grid.shape), 0, -1)[..., ::-1]
    expected = transform_points(np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.IJKToRAS, indices)
    assert centers == pytest.approx(expected, abs=1e-4)
    ramp = 2 * block.x + block.y - block.z
    assert grid.averages(ramp) == pytest.approx(grid.centers(ramp), abs=1e-3)


def test_a_written_phantom_reads_back_the_same(phantom, tmp_path):
    write_phantom(phantom, tmp_path / "patient")
    assert sorted(p.name for p in (tmp_path / "patient").iterdir()) == [
        "bones.nrrd",
        "ct.nrrd",
        "regions.nrrd",
        "truth.json",
    ]
    back = read_phantom(tmp_path / "patient")
    assert back.ct.content_hash() == phantom.ct.content_hash()
    assert (back.regions.voxels == phantom.regions.voxels).all()
    assert back.parameters == phantom.parameters
    assert back.SacrumToRAS == pytest.approx(phantom.SacrumToRAS)
    for name, foramen in phantom.foramina.items():
        assert back.foramina[name].lateral_edge_ras == pytest.approx(foramen.lateral_edge_ras)
    assert back.fractures[0].name == "left" and back.fracture == "left"


def test_truth_beside_another_ct_is_refused(phantom, tmp_path):
    write_phantom(phantom, tmp_path)
    write_volume(phantom.ct.like(phantom.ct.voxels + 1), tmp_path / "ct.nrrd")
    with pytest.raises(DocumentError, match="does not belong to the CT"):
        read_phantom(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"spacing_mm": (0.0, 1.0, 1.0)}, ImageError, "voxel size"),
        ({"spacing_mm": (1.0, 1.0, float("nan"))}, ImageError, "voxel size"),
        ({"ala_hu": float("nan")}, ImageError, "ala"),
        ({"noise_hu": -1.0}, ImageError, "noise"),
        ({"fracture": "both"}, AnatomyError, "choose one of none, left, right, bilateral, h"),
    ],
)
def test_impossible_wishes_are_refused_in_one_line(wrong, error, message):
    with pytest.raises(error, match=message) as caught:
        make_phantom(0, **wrong)
    assert "\n" not in str(caught.value)


def test_a_negative_seed_is_refused():
    with pytest.raises(ImageError, match="seed"):
        make_phantom(-1)


def test_the_command_writes_the_same_patient_for_the_same_seed_and_a_summary(phantom, tmp_path):
    folder = tmp_path / "out"
    arguments = ["--out", str(folder), "--seed", "3", "--fracture", "left", "--noise", "0", "--json"]
    arguments += ["--spacing", *map(str, COARSE_MM)]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["seed"] == 3 and summary["fracture"] == "left"
    assert read_phantom(folder).ct.content_hash() == phantom.ct.content_hash()
