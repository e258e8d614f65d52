"""What numba compiles for `compiled.py`: all in this file, since a change in another would not renew the code on disk.

Sixteen rays are followed at a time, one in each lane of the processor's vector registers. numba has no vectors and its
compiler finds none here, so the innermost loop is written in the compiler's own language (LLVM); it is legal for any
processor, which takes the sixteen in as many steps as it needs.

Levels are (slices, rows, columns) of 16-bit integers with the stepping axis first. Coordinates a, y, x are indices of
them.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .rays import LEAST_ADVANCE

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set: the loops would run uncompiled")

#: Rays at a time.
LANES = 16
#: Extent of a brick along a, y, x, as powers of two.
BRICK_SHIFTS = (4, 3, 3)

_BRICK_A, _BRICK_Y, _BRICK_X = BRICK_SHIFTS
#: Sums may be reordered and fused; infinities and what is no number keep their meaning.
_FAST = ("reassoc", "contract", "arcp", "nsz")
_compile: Any = numba.njit(nogil=True, cache=True, fastmath=set(_FAST), error_model="numpy")

_F32, _I64, _I32, _I8 = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8)
_FLOATS, _INTEGERS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


def _slices_of_all_lanes(
    typing_context: Any, levels: Any, stride_a: Any, stride_y: Any, state: Any, first: Any, last: Any
) -> Any:
    """The innermost loop: add the bilinear samples of slices first ... last - 1 for all lanes.

    Args:
        stride_a, stride_y: levels from one slice and one row to the next, int64.
        state: float32 (5, LANES): y and x in slice `first`, their change per slice, and the sums, which are written.
    """
    signature = types.void(levels, stride_a, stride_y, state, first, last)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, lanes = (
            builder.bitcast(context.make_array(kind)(context, builder, value).data, to.as_pointer())
            for kind, value, to in ((signature.args[0], arguments[0], _I8), (signature.args[3], arguments[3], _FLOATS))
        )
        stride_a, stride_y, first, last = arguments[1], arguments[2], arguments[4], arguments[5]

        def lane_pointer(row: int) -> Any:
            return builder.gep(lanes, [ir.Constant(_I64, row)])

        def load(pointer: Any, align: int) -> Any:
            value = builder.load(pointer)
            value.align = align
            return value

        y, x, change_y, change_x, sums = (load(lane_pointer(row), 4) for row in range(5))
        undefined = ir.Constant(_INTEGERS, ir.Undefined)
        one_stride = builder.insert_element(undefined, builder.trunc(stride_y, _I32), ir.Constant(_I32, 0))
        strides = builder.shuffle_vector(one_stride, undefined, ir.Constant(_INTEGERS, [0] * LANES))
        before = builder.block
        loop, after = builder.append_basic_block("slices"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", first, last), loop, after)

        builder.position_at_end(loop)
        a = builder.phi(_I64)
        steps, now_sums = builder.phi(_FLOATS), builder.phi(_FLOATS)

        def after_steps(start: Any, change: Any) -> Any:
            # Not by adding up: each sum would be rounded the same way, and the ray would drift.
            return builder.fadd(start, builder.fmul(steps, change, flags=_FAST), flags=_FAST)

        now_y, now_x = after_steps(y, change_y), after_steps(x, change_x)
        row, column = builder.fptosi(now_y, _INTEGERS), builder.fptosi(now_x, _INTEGERS)
        part_y = builder.fsub(now_y, builder.sitofp(row, _FLOATS), flags=_FAST)
        part_x = builder.fsub(now_x, builder.sitofp(column, _FLOATS), flags=_FAST)
        at = builder.add(builder.mul(row, strides), column)
        two = ir.Constant(_I64, 2)
        upper_row = builder.gep(base, [builder.mul(builder.mul(a, stride_a), two)])
        lower_row = builder.gep(upper_row, [builder.mul(stride_y, two)])
        # One load of 32 bits takes a level and its right neighbour, at whatever address.
        upper, lower = undefined, undefined
        for number in range(LANES):
            lane = ir.Constant(_I32, number)
            offset = builder.mul(builder.zext(builder.extract_element(at, lane), _I64), two)
            pairs = (
                load(builder.bitcast(builder.gep(start, [offset]), _I32.as_pointer()), 2)
                for start in (upper_row, lower_row)
            )
            upper, lower = (
                builder.insert_element(vector, pair, lane) for vector, pair in zip((upper, lower), pairs, strict=True)
            )
        half = ir.Constant(_INTEGERS, [16] * LANES)

        def between(one: Any, other: Any, part: Any) -> Any:
            return builder.fadd(
                one, builder.fmul(part, builder.fsub(other, one, flags=_FAST), flags=_FAST), flags=_FAST
            )

        def along_row(pairs: Any) -> Any:
            left = builder.sitofp(builder.ashr(builder.shl(pairs, half), half), _FLOATS)
            return between(left, builder.sitofp(builder.ashr(pairs, half), _FLOATS), part_x)

        new_sums = builder.fadd(now_sums, between(along_row(upper), along_row(lower), part_y), flags=_FAST)
        new_a = builder.add(a, ir.Constant(_I64, 1))
        new_steps = builder.fadd(steps, ir.Constant(_FLOATS, [1.0] * LANES))
        none = ir.Constant(_FLOATS, [0.0] * LANES)
        for value, start, new in ((a, first, new_a), (steps, none, new_steps), (now_sums, sums, new_sums)):
            value.add_incoming(start, before)
            value.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", new_a, last), loop, after)

        builder.position_at_end(after)
        total = builder.phi(_FLOATS)
        total.add_incoming(sums, before)
        total.add_incoming(new_sums, loop)
        builder.store(total, lane_pointer(4)).align = 4
        return context.get_dummy_value()

    return signature, generate


_add_slices: Any = intrinsic(_slices_of_all_lanes)


@_compile
def survey(voxels: Any) -> Any:
    slices, rows, columns = voxels.shape
    bounds = np.empty((3, 2), np.int64)
    bounds[:, 0], bounds[:, 1] = voxels.size, -1
    greatest, spoiled = np.float32(0), np.float32(0)
    for k in range(slices):
        for j in range(rows):
            most, total = np.float32(0), np.float32(0)
            for i in range(columns):
                value = voxels[k, j, i]
                most = max(most, abs(value))
                total += value * np.float32(0)  # Stays zero unless a value is infinite or no number.
            spoiled += total
            if most > 0:
                greatest = max(greatest, most)
                first, last = 0, columns - 1
                while voxels[k, j, first] == 0:
                    first += 1
                while voxels[k, j, last] == 0:
                    last -= 1
                bounds[0, 0], bounds[0, 1] = min(bounds[0, 0], k), k
                bounds[1, 0], bounds[1, 1] = min(bounds[1, 0], j), max(bounds[1, 1], j)
                bounds[2, 0], bounds[2, 1] = min(bounds[2, 0], first), max(bounds[2, 1], last)
    return spoiled == 0, greatest, bounds


@_compile
def pack(slices: Any, per_step: Any, levels: Any) -> None:
    count, rows, columns = slices.shape
    # In blocks, since one of the two arrays may be walked across its memory.
    for y in range(rows):
        for a0 in range(0, count, 16):
            for x0 in range(0, columns, 16):
                for a in range(a0, min(a0 + 16, count)):
                    for x in range(x0, min(x0 + 16, columns)):
                        level = math.floor(slices[a, y, x] * per_step + np.float32(0.5))
                        levels[a, y + 1, x + 1] = np.int16(level)


@_compile
def mark_bricks(levels: Any, bricks: Any) -> None:
    slices, rows, columns = levels.shape
    for a in range(slices):
        for y in range(rows):
            for x in range(columns):
                if levels[a, y, x] != 0:
                    bricks[a >> _BRICK_A, y >> _BRICK_Y, x >> _BRICK_X] = 1


@_compile
def _within(low: Any, high: Any, start: Any, slope: Any, end: Any) -> Any:
    """The part of low ... high in which 0 <= start + slope * a <= end."""
    if slope == 0:
        return (low, high) if 0 <= start <= end else (1.0, 0.0)
    one, other = -start / slope, (end - start) / slope
    return max(low, min(one, other)), min(high, max(one, other))


@_compile
def _set_out(shape: Any, rays: Any, metric: Any, u: Any, v: Any, lines: Any, ends: Any, lane: Any) -> Any:
    """Note where a ray runs and which slices it crosses; returns its way in mm from one slice to the next.

    Args:
        lines: (4, LANES): y and x at slice zero, and their change per slice.
        ends: (2, LANES): first slice, and the one behind the last.
    """
    way_a = rays[1, 0] - rays[0, 0] + u * rays[2, 0] + v * rays[3, 0]
    way_y = rays[1, 1] - rays[0, 1] + u * rays[2, 1] + v * rays[3, 1]
    way_x = rays[1, 2] - rays[0, 2] + u * rays[2, 2] + v * rays[3, 2]
    if abs(way_a) < LEAST_ADVANCE:
        way_a = LEAST_ADVANCE
    slope_y, slope_x = way_y / way_a, way_x / way_a
    # Levels have a rim around each slice.
    start_y, start_x = rays[0, 1] + 1 - slope_y * rays[0, 0], rays[0, 2] + 1 - slope_x * rays[0, 0]
    lines[0, lane], lines[1, lane], lines[2, lane], lines[3, lane] = start_y, start_x, slope_y, slope_x
    # Only between source and detector.
    low = max(0.0, min(rays[0, 0], rays[0, 0] + way_a))
    high = min(shape[0] - 1.0, max(rays[0, 0], rays[0, 0] + way_a))
    low, high = _within(low, high, start_y, slope_y, shape[1] - 2.0)
    low, high = _within(low, high, start_x, slope_x, shape[2] - 2.0)
    # The innermost loop reads wherever it is told: a ray of infinities must not get there.
    if low <= high and math.isfinite(start_y + start_x + slope_y + slope_x):
        ends[0, lane], ends[1, lane] = np.int64(math.ceil(low)), np.int64(math.floor(high)) + 1
    else:
        ends[0, lane], ends[1, lane] = 0, 0
    squared = (
        metric[0, 0]
        + metric[1, 1] * slope_y * slope_y
        + metric[2, 2] * slope_x * slope_x
        + 2 * (metric[0, 1] * slope_y + metric[0, 2] * slope_x + metric[1, 2] * slope_y * slope_x)
    )
    return math.sqrt(squared)


@_compile
def _one_lane(levels: Any, lines: Any, lane: Any, first: Any, last: Any) -> Any:
    """Sum of the samples of slices first ... last - 1 for one ray."""
    total = np.float32(0)
    for a in range(first, last):
        y, x = lines[0, lane] + a * lines[2, lane], lines[1, lane] + a * lines[3, lane]
        row, column = np.int64(y), np.int64(x)
        part_y, part_x = np.float32(y - row), np.float32(x - column)
        upper, lower = np.float32(levels[a, row, column]), np.float32(levels[a, row + 1, column])
        upper += part_x * (np.float32(levels[a, row, column + 1]) - upper)
        lower += part_x * (np.float32(levels[a, row + 1, column + 1]) - lower)
        total += upper + part_y * (lower - upper)
    return total


@_compile
def _all_lanes(levels: Any, lines: Any, state: Any, first: Any, last: Any) -> None:
    """Add the samples of slices first ... last - 1, which all rays cross."""
    if first < last:
        for lane in range(LANES):
            state[0, lane] = lines[0, lane] + first * lines[2, lane]
            state[1, lane] = lines[1, lane] + first * lines[3, lane]
            state[2, lane], state[3, lane] = lines[2, lane], lines[3, lane]
        rows, columns = levels.shape[1], levels.shape[2]
        _add_slices(levels, np.int64(rows * columns), np.int64(columns), state, np.int64(first), np.int64(last))


@_compile
def _is_filled(bricks: Any, lines: Any, first: Any, last: Any) -> Any:
    """Whether any ray may meet something in slices first ... last - 1, which lie in one layer of bricks."""
    top, left = lines[0, 0] + first * lines[2, 0], lines[1, 0] + first * lines[3, 0]
    bottom, right = top, left
    for lane in range(LANES):
        for a in (first, last - 1):
            y, x = lines[0, lane] + a * lines[2, lane], lines[1, lane] + a * lines[3, lane]
            top, bottom, left, right = min(top, y), max(bottom, y), min(left, x), max(right, x)
    layer = first >> _BRICK_A
    for row in range(np.int64(top) >> _BRICK_Y, ((np.int64(bottom) + 1) >> _BRICK_Y) + 1):
        for column in range(np.int64(left) >> _BRICK_X, ((np.int64(right) + 1) >> _BRICK_X) + 1):
            if bricks[layer, row, column] != 0:
                return True
    return False


@_compile
def _follow(levels: Any, bricks: Any, sparse: Any, lines: Any, ends: Any, state: Any) -> None:
    """Sum the samples of all rays into the last row of the state."""
    first, last = ends[0, 0], ends[1, 0]
    for lane in range(LANES):
        first, last = max(first, ends[0, lane]), min(last, ends[1, lane])
    for lane in range(LANES):
        state[4, lane] = np.float32(0)
        # Slices that not all of the rays cross.
        begin, end = ends[0, lane], ends[1, lane]
        if first < last:
            state[4, lane] += _one_lane(levels, lines, lane, begin, first)
            state[4, lane] += _one_lane(levels, lines, lane, last, end)
        else:
            state[4, lane] += _one_lane(levels, lines, lane, begin, end)
    if not sparse:
        _all_lanes(levels, lines, state, first, last)
        return
    while first < last:
        end = min(last, ((first >> _BRICK_A) + 1) << _BRICK_A)
        if _is_filled(bricks, lines, first, end):
            _all_lanes(levels, lines, state, first, end)
        first = end


@_compile
def project_window(
    levels: Any, bricks: Any, sparse: Any, step: Any, rays: Any, metric: Any, image: Any, row0: Any, row1: Any,
    column0: Any, column1: Any,
) -> None:  # fmt: skip
    lines, ends = np.empty((4, LANES)), np.empty((2, LANES), np.int64)
    state, lengths = np.empty((5, LANES), np.float32), np.empty(LANES)
    for left in range(column0, column1, LANES):
        for row in range(row0, row1):
            for lane in range(LANES):
                # Lanes beyond the last column repeat it.
                u, v = float(min(left + lane, column1 - 1)), float(row)
                lengths[lane] = _set_out(levels.shape, rays, metric, u, v, lines, ends, lane)
            _follow(levels, bricks, sparse, lines, ends, state)
            for lane in range(min(LANES, column1 - left)):
                image[row, left + lane] = state[4, lane] * step * lengths[lane]


@_compile
def project_pixels(
    levels: Any, bricks: Any, sparse: Any, step: Any, rays: Any, metric: Any, pixels_uv: Any, values: Any
) -> None:
    lines, ends = np.empty((4, LANES)), np.empty((2, LANES), np.int64)
    state, lengths = np.empty((5, LANES), np.float32), np.empty(LANES)
    count = len(values)
    for start in range(0, count, LANES):
        for lane in range(LANES):
            number = min(start + lane, count - 1)
            u, v = pixels_uv[number, 0], pixels_uv[number, 1]
            lengths[lane] = _set_out(levels.shape, rays, metric, u, v, lines, ends, lane)
        _follow(levels, bricks, sparse, lines, ends, state)
        for lane in range(min(LANES, count - start)):
            values[start + lane] = state[4, lane] * step * lengths[lane]
