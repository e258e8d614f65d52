"""Implicit shapes against closed formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.geometry import distance_to_segment
from sacroplasty.phantom.implicit import (
    HeightMap,
    capsule,
    coverage,
    ellipsoid,
    interpolate_table,
    polygon,
    smooth_max,
    smooth_min,
    superellipse,
)

coordinate = st.floats(-20, 20)


@settings(max_examples=60, deadline=None)
@given(st.tuples(coordinate, coordinate, coordinate))
def test_a_capsule_is_the_distance_to_its_segment_less_the_radius(point):
    x, y, z = (np.array([c]) for c in point)
    start, end = np.array([1.0, 2.0, 3.0]), np.array([-4.0, 5.0, 9.0])
    expected = distance_to_segment(np.array([point]), start, end) - 2.5
    assert capsule(x, y, z, start, end, (2.5, 2.5)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.tuples(coordinate, coordinate, coordinate))
def test_a_ball_is_the_exact_distance_and_so_is_a_round_superellipse(point):
    x, y, z = (np.array([c]) for c in point)
    radius = float(np.linalg.norm(point))
    if radius > 0.01:
        assert ellipsoid(x, y, z, (0, 0, 0), (7, 7, 7))[0] == pytest.approx(radius - 7, abs=1e-6)
    flat = float(np.hypot(point[0], point[1]))
    if flat > 0.01:
        assert superellipse(x, y, 6.0, 6.0, 2.0)[0] == pytest.approx(flat - 6, abs=1e-6)


def test_first_order_distance_holds_beside_a_stretched_ellipsoid():
    angles = np.linspace(0, 2 * np.pi, 40)
    radii = np.array([20.0, 8.0, 12.0])
    surface = np.stack([np.cos(angles) * radii[0], np.sin(angles) * radii[1], 0 * angles], axis=-1)
    normal = surface / radii**2
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    for offset in (-0.5, 0.5):
        found = ellipsoid(*(surface + offset * normal).T, (0, 0, 0), radii)
        assert found == pytest.approx(offset, abs=0.06)


def test_a_polygon_knows_inside_and_outside_and_the_distance_of_an_l_shape():
    corners = [(0, 0), (10, 0), (10, 4), (4, 4), (4, 10), (0, 10)]
    points = {(2, 2): -2.0, (7, 7): 3.0, (-3, -4): 5.0, (8, 3): -1.0, (2, 12): 2.0, (13, 2): 3.0}
    for (u, v), expected in points.items():
        assert polygon(np.array([float(u)]), np.array([float(v)]), corners)[0] == pytest.approx(expected)


def test_smooth_union_and_intersection_equal_the_sharp_ones_away_from_the_edge():
    a, b = np.array([-5.0, 3.0, 0.0]), np.array([2.0, -6.0, 0.0])
    assert smooth_max(a, b, 1.0)[:2] == pytest.approx([2.0, 3.0])
    assert smooth_min(a, b, 1.0)[:2] == pytest.approx([-5.0, -6.0])
    assert smooth_max(a, b, 1.0)[2] == pytest.approx(0.25)
    assert smooth_min(a, b, 1.0)[2] == pytest.approx(-0.25)


def test_coverage_is_the_part_of_a_voxel_inside():
    assert coverage(np.array([-2.0, -0.25, 0.0, 0.25, 2.0]), 1.0) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_a_height_map_gives_the_distance_to_an_oblique_plane():
    rows, _ = np.meshgrid(np.arange(0, 20, 0.5), np.arange(0, 30, 0.5), indexing="ij")
    plane = HeightMap(0.75 * rows - 2, (0.0, 0.0), 0.5)
    row, column = np.array([8.0, 11.3]), np.array([10.0, 4.4])
    assert plane(row, column) == pytest.approx(0.75 * row - 2, abs=1e-5)
    height = 0.75 * row - 2 + 5.0
    assert plane.above(row, column, height) == pytest.approx([4.0, 4.0], abs=1e-4)


def test_a_table_is_met_at_its_knots_and_constant_outside():
    table = [[1.0, 2.0, 5.0], [3.0, 4.0, 0.0]]
    rows, columns = [0.0, 10.0], [0.0, 6.0, 12.0]
    assert interpolate_table(rows, columns, table, rows, columns) == pytest.approx(np.array(table))
    assert interpolate_table(rows, columns, table, [-5.0], [20.0])[0, 0] == pytest.approx(5.0)
