"""Volumes made ready once, the compiled loops against those in numpy, and projections of a part."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sacroplasty.errors import GeometryError, ImageError, SacroplastyError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.image import Volume
from sacroplasty.xray import project, projectable, threads
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.project import (
    ProjectableVolume,
    line_integrals,
    line_integrals_of_poses,
    pixel_line_integrals,
)

DIRECTIONS = [[0, 1, 0], [0, 1, -1], [1, 1, 1], [0.3, -0.1, 1.0], [-1, 0.2, 0.1]]


def pose(direction: list[float], columns: int = 72) -> XrayGeometry:
    return CArm().pose([0, 0, 0], direction, [0, 0.1, 1]).resampled(columns)


def clouds(fill: float, shape: tuple[int, int, int] = (40, 55, 70)) -> Volume:
    """Noise in a share of the blocks of an oblique, anisotropic, left-handed grid."""
    rng = np.random.default_rng(11)
    voxels = rng.uniform(0.0, 0.06, shape).astype(np.float32)
    blocks = rng.uniform(size=[-(-length // 8) for length in shape]) < fill
    voxels[~np.kron(blocks, np.ones((8, 8, 8), bool))[: shape[0], : shape[1], : shape[2]]] = 0
    axes = rotation_about([1, 2, 3], 25) @ np.diag([-1.1, 1.1, 2.0])
    return Volume(voxels, rigid(axes, -axes @ (np.array(shape[::-1]) - 1) / 2))


@pytest.fixture
def in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (project, projectable):
        monkeypatch.setattr(module, "compiled_loops", lambda: None)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("fill", [1.0, 0.1])
def test_compiled_loops_and_numpy_agree(direction: list[float], fill: float, request: pytest.FixtureRequest) -> None:
    assert projectable.compiled_loops() is not None, "numba belongs to the test requirements"
    geometry, volume = pose(direction), clouds(fill)
    compiled = line_integrals(volume, geometry)
    pixels = np.random.default_rng(2).uniform(0, 71, (300, 2))
    some = pixel_line_integrals(volume, geometry, pixels)
    request.getfixturevalue("in_numpy")
    assert compiled.max() > 0.5
    # 16-bit levels of the compiled loops: half a level in each of some hundred samples.
    np.testing.assert_allclose(line_integrals(volume, geometry), compiled, atol=3e-5 * compiled.max())
    np.testing.assert_allclose(pixel_line_integrals(volume, geometry, pixels), some, atol=3e-5 * compiled.max())


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.floats(-1, 1)] * 3),
    st.floats(0.2, 5.0),
    st.floats(0, 360),
    st.floats(150, 900),
    st.tuples(*[st.floats(-150, 150)] * 3),
)
def test_they_agree_for_any_grid_and_pose(
    shape: tuple[int, int, int],
    direction: tuple[float, float, float],
    spacing: float,
    turn_deg: float,
    source_distance: float,
    isocenter: tuple[float, float, float],
) -> None:
    assume(np.linalg.norm(np.cross(direction, [0, 0, 1])) > 0.05)
    voxels = np.random.default_rng(5).uniform(0, 0.05, shape).astype(np.float32)
    axes = rotation_about([1, 2, 3], turn_deg) @ np.diag([spacing, spacing, -2.0])
    volume = Volume(voxels, rigid(axes, -axes @ (np.array(shape[::-1]) - 1) / 2))
    c_arm = CArm(1020.0, source_distance, (40, 36), (7.0, 7.0))
    geometry = c_arm.pose(isocenter, direction, [0, 0, 1])
    images = []
    for loops in (projectable.compiled_loops(), None):
        with pytest.MonkeyPatch.context() as patch:
            for module in (project, projectable):
                patch.setattr(module, "compiled_loops", lambda loops=loops: loops)
            try:
                images.append(line_integrals(volume, geometry))
            except GeometryError as error:
                assert "source lies inside" in str(error)
                return
    # A ray may graze the last slice in one and just miss it in the other: a sample's weight there is tiny or one voxel.
    apart = np.abs(images[0] - images[1])
    assert np.quantile(apart, 0.99) <= 1e-4
    assert apart.max() <= 0.05 * 3 * max(spacing, 2.0)


def test_both_leave_out_what_stands_behind_the_detector(request: pytest.FixtureRequest) -> None:
    c_arm = CArm(source_to_detector_mm=620.0, source_to_isocenter_mm=620.0)
    geometry = c_arm.pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(64)
    cut = line_integrals(clouds(1.0), geometry)
    whole = line_integrals(clouds(1.0), CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(64))
    assert 0.3 * whole.max() < cut.max() < 0.7 * whole.max()
    request.getfixturevalue("in_numpy")
    np.testing.assert_allclose(line_integrals(clouds(1.0), geometry), cut, atol=3e-5 * cut.max())


@pytest.mark.parametrize("path", ["compiled", "numpy"])
def test_a_region_and_single_pixels_equal_the_whole_image(path: str, request: pytest.FixtureRequest) -> None:
    if path == "numpy":
        request.getfixturevalue("in_numpy")
    geometry, volume = pose([0.2, 1, -0.4]), ProjectableVolume.of(clouds(0.6))
    image = line_integrals(volume, geometry)
    region = (slice(20, 51), slice(13, 60))
    np.testing.assert_allclose(line_integrals(volume, geometry, region=region), image[region], atol=1e-5)
    rows, columns = np.indices(image.shape)
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)[::7]
    values = pixel_line_integrals(volume, geometry, pixels)
    np.testing.assert_allclose(values, image.ravel()[::7], atol=1e-5)


def test_a_region_off_the_detector_is_refused() -> None:
    with pytest.raises(GeometryError, match="region"):
        line_integrals(clouds(1.0), pose([0, 1, 0]), region=(slice(0, 10), slice(70, 80)))


def test_a_batch_equals_its_images_and_needs_one_size() -> None:
    volume = ProjectableVolume.of(clouds(0.5))
    geometries = [pose(direction) for direction in DIRECTIONS]
    batch = line_integrals_of_poses(volume, geometries, threads=2)
    for geometry, image in zip(geometries, batch, strict=True):
        np.testing.assert_array_equal(line_integrals(volume, geometry), image)
    with pytest.raises(GeometryError, match="one detector size"):
        line_integrals_of_poses(volume, [pose([0, 1, 0], 64), pose([0, 1, 0], 72)])


def test_a_source_inside_is_refused_in_a_batch_too() -> None:
    inside = CArm(source_to_isocenter_mm=1).pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(72)
    with pytest.raises(GeometryError, match="source lies inside the patient"):
        line_integrals_of_poses(clouds(1.0), [pose([0, 1, 0]), inside], threads=2)


def test_the_number_of_threads_changes_nothing() -> None:
    volume, geometry = ProjectableVolume.of(clouds(0.5)), pose([0, 1, -1])
    one = line_integrals(volume, geometry, threads=1)
    for count in (2, 5):
        np.testing.assert_array_equal(line_integrals(volume, geometry, threads=count), one)


def test_several_threads_may_project_at_the_same_time() -> None:
    volume = ProjectableVolume.of(clouds(0.5))
    wanted = [line_integrals(volume, pose(direction)) for direction in DIRECTIONS]
    fresh = ProjectableVolume.of(clouds(0.5))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda direction: line_integrals(fresh, pose(direction)), DIRECTIONS * 4))
    for number, image in enumerate(found):
        np.testing.assert_array_equal(image, wanted[number % len(DIRECTIONS)])


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert threads.thread_count() == 3
    assert threads.thread_count(1) == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "many")
    with pytest.raises(SacroplastyError, match="NUMBA_NUM_THREADS"):
        threads.thread_count()
    with pytest.raises(SacroplastyError, match="0 threads"):
        threads.thread_count(0)


def test_a_level_holds_the_same_mass_in_larger_voxels() -> None:
    fine = ProjectableVolume.of(clouds(1.0))
    coarse = fine.coarser()
    assert fine.filled is not None
    assert coarse.filled is not None
    # The thick axis stays as it is.
    np.testing.assert_allclose(coarse.filled.spacing_mm, [2.2, 2.2, 2.0])
    mass = [volume.filled.voxels.sum() * volume.filled.voxel_volume_ml for volume in (fine, coarse)]
    assert mass[1] == pytest.approx(mass[0], rel=1e-5)
    images = [line_integrals(volume, pose([0, 1, 0])) for volume in (fine, coarse)]
    assert images[1].sum() == pytest.approx(images[0].sum(), rel=0.01)
    inner = (slice(30, 42), slice(30, 42))
    assert np.abs(images[1] - images[0])[inner].mean() < 0.05 * images[0][inner].mean()


def test_pixels_without_a_place_are_refused() -> None:
    with pytest.raises(GeometryError, match="NaN"):
        pixel_line_integrals(clouds(1.0), pose([0, 1, 0]), [[3.0, np.nan]])
    # Far off the detector there is nothing, however far.
    assert not pixel_line_integrals(clouds(1.0), pose([0, 1, 0]), [[1e12, 4.0], [-1e300, 1e300]]).any()


def test_a_pose_beyond_all_numbers_is_refused() -> None:
    tiny = Volume(np.ones((4, 4, 4), np.float32), np.diag([1e-100, 1e-100, 1e-100, 1.0]))
    assert not line_integrals(tiny, pose([0, 1, 0])).any()
    far = CArm().pose([1e250, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(72)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(GeometryError, match="wrong units"):
        line_integrals(tiny, far)


def test_an_impossible_grid_is_refused() -> None:
    voxels = np.ones((4, 4, 4), np.float32)
    with pytest.raises(ImageError, match="voxel size"):
        ProjectableVolume.of(Volume(voxels, np.diag([1.0, 0.0, 1.0, 1.0])))
    with pytest.raises(ImageError, match="voxel size"):
        ProjectableVolume.of(Volume(voxels, np.diag([1.0, np.nan, 1.0, 1.0])))


@pytest.mark.parametrize("path", ["compiled", "numpy"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_without_value_are_refused(path: str, bad: float, request: pytest.FixtureRequest) -> None:
    if path == "numpy":
        request.getfixturevalue("in_numpy")
    volume = clouds(0.5)
    volume.voxels[12, 3, 40] = bad
    with pytest.raises(ImageError, match="NaN"):
        ProjectableVolume.of(volume)


def test_without_numba_the_projector_works_all_the_same(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from sacroplasty.geometry import rigid
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.project import line_integrals
from sacroplasty.xray.projectable import compiled_loops
assert compiled_loops() is None
volume = Volume(np.full((20, 20, 20), 0.01, np.float32), rigid(np.eye(3), np.full(3, -9.5)))
print(line_integrals(volume, CArm().pose([0, 0, 0], [0, 1, 0], [0, 0, 1]).resampled(33))[16, 16])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(0.2, rel=0.01)


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from sacroplasty.xray import compiled

    def fail() -> None:
        raise RuntimeError("another version")

    monkeypatch.setattr(compiled, "warm_up", fail)
    with pytest.warns(UserWarning, match="another version"):
        assert projectable.compiled_loops.__wrapped__() is None


def test_numba_without_its_compiler_is_not_used(tmp_path: Path) -> None:
    code = "from sacroplasty.xray.projectable import compiled_loops; raise SystemExit(compiled_loops() is not None)"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
