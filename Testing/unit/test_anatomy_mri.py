"""An MRI on the CT: the pose against a known motion, what is refused, and oedema against the phantom's truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.labels import REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.mri import check_mri, read_mri
from sacroplasty.anatomy.mri_files import read_mri_to_ct, write_mri
from sacroplasty.anatomy.mri_registration import MRIRegistration, register_mri
from sacroplasty.anatomy.oedema import find_oedema, mri_on_ct
from sacroplasty.errors import AnatomyError, CalibrationError, ImageError, SacroplastyError
from sacroplasty.geometry import invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.image import Volume, write_volume
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.phantom.mri import PhantomMRI, make_mri


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(31, spacing_mm=(2.5, 2.5, 3.0), noise_hu=0, fracture="left")


@pytest.fixture(scope="module")
def anatomy(phantom: Phantom) -> Anatomy:
    return Anatomy(
        phantom.bones, phantom.regions, {}, {}, phantom.SacrumToRAS, {}, (), "truth", phantom.ct.content_hash()
    )


@pytest.fixture(scope="module")
def mri(phantom: Phantom) -> PhantomMRI:
    center = transform_points(phantom.SacrumToRAS, [0, 12, -45])
    turn = rotation_about([1, 2, -1], 6)
    return make_mri(phantom, 4, rigid(turn, center - turn @ center + [6, -5, 7]))


@pytest.fixture(scope="module")
def registered(phantom: Phantom, anatomy: Anatomy, mri: PhantomMRI) -> MRIRegistration:
    return register_mri(phantom.ct, mri.volume, anatomy)


def test_a_moved_mri_is_found_again_within_a_millimetre_at_the_alae(phantom, mri, registered) -> None:
    alae = np.isin(phantom.regions.voxels, [REGION_LABEL["ala_left"], REGION_LABEL["ala_right"]])
    points = phantom.ct.ras_of(np.argwhere(alae))
    before = transform_points(invert_rigid(mri.MRIToCT), points) - points
    assert np.linalg.norm(before, axis=1).mean() > 8
    error = transform_points(registered.MRIToCT @ invert_rigid(mri.MRIToCT), points) - points
    assert np.linalg.norm(error, axis=1).max() < 1.0
    assert registered.disagreement_mm < 1.5


def test_oedema_lies_in_the_fractured_ala_where_it_was_painted(phantom, anatomy, mri, registered) -> None:
    oedema = find_oedema(phantom.ct, mri.volume, anatomy, registered)
    found = oedema.masks["oedema_left"]
    dice = 2 * np.count_nonzero(found & mri.oedema) / (found.sum() + mri.oedema.sum())
    assert dice > 0.7
    assert oedema.volumes_ml["oedema_right"] == 0
    true_ml = np.count_nonzero(mri.oedema) * phantom.ct.voxel_volume_ml
    assert oedema.volumes_ml["oedema_left"] == pytest.approx(true_ml, rel=0.4)


def test_an_image_with_bright_fat_or_bright_bone_tells_no_oedema(phantom, anatomy, mri, registered) -> None:
    # An image of the same grid made of the CT alone, with muscle brighter than nothing else.
    here = mri_on_ct(phantom.ct, phantom.ct, np.eye(4))
    as_ct = phantom.ct.like(here + 1024)
    placed = replace(registered, MRIToCT=np.eye(4))
    with pytest.raises(ImageError, match="is it a CT"):
        find_oedema(phantom.ct, as_ct, anatomy, placed)
    t1 = phantom.ct.like(np.interp(here, [-1000, -300, -105, 55, 300], [0, 0, 900, 300, 30]))
    with pytest.raises(ImageError, match="fat is not suppressed"):
        find_oedema(phantom.ct, t1, anatomy, placed)


def test_an_mri_of_noise_is_refused(phantom, anatomy, mri) -> None:
    noise = np.abs(np.random.default_rng(1).normal(0, 300, mri.volume.voxels.shape)).astype(np.int16)
    with pytest.raises(CalibrationError, match=r"hardly better|disagree"):
        register_mri(phantom.ct, mri.volume.like(noise), anatomy, start=mri.MRIToCT)


def test_an_mri_that_lies_beside_the_given_start_is_refused(phantom, anatomy, mri) -> None:
    away = rigid(np.eye(3), [400, 0, 0])
    with pytest.raises(CalibrationError, match="do not overlap"):
        register_mri(phantom.ct, mri.volume, anatomy, start=away)


def test_anatomy_of_another_ct_is_refused(phantom, anatomy, mri) -> None:
    with pytest.raises(AnatomyError, match="another CT"):
        register_mri(phantom.ct, mri.volume, replace(anatomy, image_hash="0"))


def bad(mri: Volume, kind: str) -> Volume:
    voxels = mri.voxels.astype(np.float32)
    if kind == "single slice":
        return Volume(voxels[:1], mri.IJKToRAS)
    if kind == "NaN":
        voxels[3, 4, 5] = np.nan
    elif kind == "label map":
        voxels = (voxels > 200).astype(np.float32)
    elif kind == "CT":
        voxels = voxels - 1000
    elif kind == "metres":
        return Volume(voxels, np.diag([1e-3, 1e-3, 1e-3, 1]) @ mri.IJKToRAS)
    return mri.like(voxels)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("single slice", "only 1 slices"),
        ("NaN", "1 voxels that are no numbers"),
        ("label map", "label map or a mask"),
        ("CT", "is it a CT"),
        ("metres", "another unit"),
    ],
)
def test_what_is_no_mri_is_refused_in_one_line(mri, kind: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as refusal:
        check_mri(bad(mri.volume, kind), "file")
    assert "\n" not in str(refusal.value)


def test_the_files_come_back_only_for_the_same_images(phantom, anatomy, mri, registered, tmp_path) -> None:
    oedema = find_oedema(phantom.ct, mri.volume, anatomy, registered)
    write_mri(tmp_path, phantom.ct, mri.volume, registered, oedema)
    np.testing.assert_allclose(read_mri_to_ct(tmp_path / "mri_to_ct.json", phantom.ct, mri.volume), registered.MRIToCT)
    other = mri.volume.like(mri.volume.voxels + 1)
    with pytest.raises(AnatomyError, match="another MRI"):
        read_mri_to_ct(tmp_path / "mri_to_ct.json", phantom.ct, other)
    write_volume(mri.volume, tmp_path / "mri.nrrd")
    assert read_mri(tmp_path / "mri.nrrd").content_hash() == mri.volume.content_hash()


def test_an_mri_is_not_made_from_a_noisy_ct(phantom) -> None:
    with pytest.raises(SacroplastyError, match="without noise"):
        make_mri(replace(phantom, noise_hu=20.0), 1)
