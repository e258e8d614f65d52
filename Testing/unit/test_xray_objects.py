"""Trocars and cement in the beam."""

from __future__ import annotations

import numpy as np
import pytest
from vtkmodules.vtkFiltersSources import vtkSphereSource

from sacroplasty.errors import ImageError, SacroplastyError
from sacroplasty.geometry import rigid
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.materials import attenuation_per_mm
from sacroplasty.xray.objects import Deposit, Tube, object_line_integrals, share_of_mesh

CENTER = np.array([5.0, -6.0, 7.0])
GEOMETRY = CArm().pose(CENTER, [0.2, 1, 0.1], [0, 0, 1]).resampled(200)


def cube(share: float) -> Volume:
    """20 mm along each edge."""
    voxels = np.full((20, 20, 20), share, np.float32)
    return Volume(voxels, rigid(np.eye(3), CENTER - 9.5))


@pytest.mark.parametrize("energy_kev", [50.0, 60.0, 80.0])
def test_each_object_attenuates_as_its_material_at_the_beams_energy(energy_kev: float) -> None:
    middle = (100, 100)
    length = 20 / np.abs(GEOMETRY.view_direction_ras @ [0, 1, 0])
    cement = object_line_integrals([Deposit(cube(1.0))], GEOMETRY, energy_kev)
    assert cement[middle] == pytest.approx(attenuation_per_mm("cement", energy_kev) * length, rel=0.01)
    way = GEOMETRY.view_direction_ras
    rod = Tube(CENTER - 30 * way, CENTER + 30 * way, 8.0)
    steel = object_line_integrals([rod], GEOMETRY, energy_kev)
    assert steel[middle] == pytest.approx(attenuation_per_mm("steel", energy_kev) * 60, rel=0.01)
    both = object_line_integrals([Deposit(cube(1.0)), rod], GEOMETRY, energy_kev)
    np.testing.assert_allclose(both, cement + steel, rtol=1e-6)


def test_half_filled_voxels_attenuate_half() -> None:
    full, half = (object_line_integrals([Deposit(cube(share))], GEOMETRY) for share in (1.0, 0.5))
    np.testing.assert_allclose(half, full / 2, rtol=1e-4, atol=1e-6)


def test_a_closed_surface_becomes_what_it_holds() -> None:
    ball = vtkSphereSource()
    ball.SetCenter(*CENTER)
    ball.SetRadius(10)
    ball.SetThetaResolution(120)
    ball.SetPhiResolution(120)
    ball.Update()
    share = share_of_mesh(ball.GetOutput(), 0.5)
    assert share.voxels.sum() * share.voxel_volume_ml == pytest.approx(4 / 3 * np.pi, rel=0.005)
    image = object_line_integrals([Deposit(share)], GEOMETRY)
    assert image.max() == pytest.approx(20 * attenuation_per_mm("cement"), rel=0.015)
    rows, columns = np.indices(image.shape)
    middle = [(columns * image).sum() / image.sum(), (rows * image).sum() / image.sum()]
    np.testing.assert_allclose(middle, GEOMETRY.project(CENTER), atol=0.1)


def test_no_objects_and_empty_ones_cast_no_shadow() -> None:
    assert not object_line_integrals([], GEOMETRY).any()
    assert not object_line_integrals([Deposit(cube(0.0))], GEOMETRY).any()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ImageError, match="from 0 to 1"):
        object_line_integrals([Deposit(cube(255.0))], GEOMETRY)
    with pytest.raises(ImageError, match="from 0 to 1"):
        object_line_integrals([Deposit(cube(-0.5))], GEOMETRY)
    with pytest.raises(SacroplastyError, match="no attenuation of 'glue'"):
        object_line_integrals([Deposit(cube(1.0), "glue")], GEOMETRY)
    with pytest.raises(ImageError, match="no points"):
        share_of_mesh(vtkSphereSource().GetOutput())
