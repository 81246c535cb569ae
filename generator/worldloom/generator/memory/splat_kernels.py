"""World points -> sums of weighted channels per pixel, and those sums -> images: the hot loops.

All compiled loops of the splat are in this one file, as numba's cache of a compiled function does
not notice a change of another file that it calls into. Threads share whole views only, and each
view is summed in the order of its points: the bytes do not depend on the number of threads.

A canvas is flat: rows of a picture with a border of one pixel, and for each pixel the weighted sums
of the channels, that of the depth where it is asked for, and the sum of the weights. The lengths of
the tuples `tag` (one entry per channel) and `deep` (one entry where depth is asked for) are known
when a kernel is compiled, so its inner loops are unrolled.
"""

from __future__ import annotations

import numba as nb
import numpy as np

SHARPNESS = 50.0  # Log-depth factor of the weights (spec generation 4.2, step 3).
EXPONENT_MOST = 80.0  # Cap of the exponent (same place).
EPS = 1e-7  # Added to divisors by the released code (same place).
BLOCK = 8  # Pixels per latent cell and axis (spec generation 5).


@nb.njit(cache=True, inline="always")
def _tap(canvas, pixel, values, i, w, z, tag, deep):
    channels, depths = len(tag), len(deep)
    at = pixel * nb.uintp(channels + depths + 1)
    for c in range(channels):
        canvas[at + nb.uintp(c)] += w * values[i, c]
    if depths:
        canvas[at + nb.uintp(channels)] += w * z
    canvas[at + nb.uintp(channels + depths)] += w


@nb.njit(cache=True, inline="always")
def add_sample(canvas, wide, high, u, v, values, i, weight, z, tag, deep):
    """Spread sample i, at column u and row v, over four pixels of a canvas wide x high.

    Floor and ceiling are both visited even where they are the same pixel: a sample exactly on a
    pixel counts twice for each axis, as in the released code.
    """
    u = min(max(u + np.float32(1), np.float32(0)), np.float32(wide - 1))
    v = min(max(v + np.float32(1), np.float32(0)), np.float32(high - 1))
    left, top = np.floor(u), np.floor(v)
    right, bottom = np.ceil(u), np.ceil(v)
    one, row = np.float32(1), nb.uintp(wide)
    west, east = weight * (one - (u - left)), weight * (one - (right - u))
    north, south = one - (v - top), one - (bottom - v)
    x0, x1 = nb.uintp(left), nb.uintp(right)
    y0, y1 = nb.uintp(top) * row, nb.uintp(bottom) * row
    _tap(canvas, y0 + x0, values, i, north * west, z, tag, deep)
    _tap(canvas, y0 + x1, values, i, north * east, z, tag, deep)
    _tap(canvas, y1 + x0, values, i, south * west, z, tag, deep)
    _tap(canvas, y1 + x1, values, i, south * east, z, tag, deep)


@nb.njit(cache=True, inline="always")
def _weight(z, power):
    # exp(s log(1 + z)) as released, with z > 0; the cap cannot be exceeded below the maximum.
    exponent = min(np.log(np.float32(1 + z)) * power, np.float32(EXPONENT_MOST))
    return np.float32(1) / (np.exp(exponent) + np.float32(EPS))


@nb.njit(cache=True, inline="always")
def _column_row(P, x, y, w, z):
    scale = 1 / (z + EPS)
    u = np.float32((P[0, 0] * x + P[0, 1] * y + P[0, 2] * w + P[0, 3]) * scale)
    v = np.float32((P[1, 0] * x + P[1, 1] * y + P[1, 2] * w + P[1, 3]) * scale)
    return u, v


@nb.njit(cache=True)
def add_points(canvas, wide, high, values, points, valid, P, power, tag, deep):
    """Project the valid ones of points [n 3] by P [3 4] and add them to a canvas, in order."""
    for i in range(len(points)):
        if not valid[i]:
            continue
        x, y, w = points[i, 0], points[i, 1], points[i, 2]
        z = P[2, 0] * x + P[2, 1] * y + P[2, 2] * w + P[2, 3]
        if z <= 0:
            continue
        u, v = _column_row(P, x, y, w, z)
        # Whatever lands on the border only is cropped away.
        if not (u > -1 and v > -1 and u < wide - 2 and v < high - 2):
            continue
        add_sample(canvas, wide, high, u, v, values, i, _weight(z, power), np.float32(z), tag, deep)


@nb.njit(cache=True)
def splat_samples(values, position, weight, groups, fill, low, high, tag, out):
    """Add n lists of samples at given positions to b images and blend; see `splat.splat`."""
    rows, columns = out.shape[1], out.shape[2]
    known = np.zeros((len(out), rows, columns), np.bool_)
    wide, tall = columns + 2, rows + 2
    unused = np.zeros((rows, columns), np.float32)
    for b in range(len(out)):
        canvas = np.zeros(tall * wide * (len(tag) + 1), np.float32)
        for k in range(len(groups)):
            if groups[k] != b:
                continue
            for i in range(values.shape[1]):
                if weight[k, i] != 0:
                    u, v = position[k, i, 0], position[k, i, 1]
                    z = np.float32(0)
                    add_sample(canvas, wide, tall, u, v, values[k], i, weight[k, i], z, tag, ())
        _resolve(canvas, fill, low, high, tag, (), out[b], unused, known[b])
    return known


@nb.njit(cache=True, parallel=True)
def warp_views(values, points, valid, P, power, sources, fill, low, high, tag, deep, out, depth):
    """Splat source frames [s n ...] into b views; write blended channels and depth, 0 = unknown.

    `out` is [b h w c] and `depth` [b h w], which is left alone unless `deep` asks for it; `known`
    is returned, [b h w]. Blended channels are clamped to low..high.
    """
    rows, columns = out.shape[1], out.shape[2]
    known = np.zeros((len(out), rows, columns), np.bool_)
    for b in nb.prange(len(out)):
        tall, wide = rows + 2, columns + 2
        canvas = np.zeros(tall * wide * (len(tag) + len(deep) + 1), np.float32)
        for k in range(sources.shape[1]):
            s = sources[b, k]
            add_points(
                canvas, wide, tall, values[s], points[s], valid[s], P[b], power[b], tag, deep
            )
        _resolve(canvas, fill, low, high, tag, deep, out[b], depth[b], known[b])
    return known


@nb.njit(cache=True)
def _resolve(canvas, fill, low, high, tag, deep, out, depth, known):
    rows, columns = known.shape
    channels, stride = len(tag), len(tag) + len(deep) + 1
    for y in range(rows):
        for x in range(columns):
            at = ((y + 1) * (columns + 2) + x + 1) * stride
            weight = canvas[at + stride - 1]
            known[y, x] = weight > 0
            if weight > 0:
                share = np.float32(1) / weight
                for c in range(channels):
                    out[y, x, c] = min(max(canvas[at + c] * share, low), high)
                if len(deep):
                    depth[y, x] = canvas[at + channels] * share
            else:
                for c in range(channels):
                    out[y, x, c] = fill
                if len(deep):
                    depth[y, x] = 0


@nb.njit(cache=True, parallel=True)
def fold_views(ramps, points, valid, P, power, z, out):
    """Splat one memory slot into t views, folded to latent cells in place.

    Args:
        ramps: Canonical X and Y of each point, [n 2].
        points: World points of the source frame, [n 3].
        valid: Points that may be seen, [n].
        P: Projections of the views, [t 3 4].
        power: Exponent of the depth weights of each view, [t].
        z: Canonical Z of the slot.
        out: The slot's X, Y, Z and blended depth (0 = hole), [4 8 8 t h/8 w/8].

    Returns the lowest and the highest blended depth of each view, holes included, [t 2].
    """
    rows, columns = out.shape[4] * BLOCK, out.shape[5] * BLOCK
    span = np.zeros((len(P), 2), np.float32)
    for t in nb.prange(len(P)):
        canvas = np.zeros((rows + 2) * (columns + 2) * 4, np.float32)
        add_points(
            canvas, columns + 2, rows + 2, ramps, points, valid, P[t], power[t], (0, 0), (0,)
        )
        low, high = np.float32(np.inf), np.float32(0)
        for y in range(rows):
            for dx in range(BLOCK):
                _fold_row(canvas, y, dx, z, out[:, y % BLOCK, dx, t, y // BLOCK])
                line = out[3, y % BLOCK, dx, t, y // BLOCK]
                for d in line:
                    low, high = min(low, d), max(high, d)
        span[t, 0], span[t, 1] = low, high
    return span


@nb.njit(cache=True, inline="always")
def _fold_row(canvas, y, dx, z, out):
    one = np.float32(1)
    columns = out.shape[1] * BLOCK
    for j in range(out.shape[1]):
        at = ((y + 1) * (columns + 2) + j * BLOCK + dx + 1) * 4
        weight = canvas[at + 3]
        if weight > 0:
            share = one / weight
            out[0, j] = min(max(canvas[at] * share, -one), one)
            out[1, j] = min(max(canvas[at + 1] * share, -one), one)
            out[2, j] = z
            out[3, j] = canvas[at + 2] * share
        else:
            out[0, j] = out[1, j] = out[2, j] = -one
            out[3, j] = 0


@nb.njit(cache=True, parallel=True)
def farthest(points, valid, w2c):
    """Largest z of points [n 3] in each view [t 4 4]: of all points, and of the valid ones, [t 2].

    At least 0: what lies behind a camera counts as 0, as in the released code.
    """
    out = np.zeros((len(w2c), 2))
    for t in nb.prange(len(w2c)):
        a, b, c, d = w2c[t, 2, 0], w2c[t, 2, 1], w2c[t, 2, 2], w2c[t, 2, 3]
        every, seen = 0.0, 0.0
        for i in range(len(points)):
            z = a * points[i, 0] + b * points[i, 1] + c * points[i, 2] + d
            every = max(every, z)
            seen = max(seen, z if valid[i] else 0.0)
        out[t, 0], out[t, 1] = every, seen
    return out


@nb.njit(cache=True, inline="always")
def _touched(wide, u, v):
    left, right = nb.uintp(np.floor(u + 1)), nb.uintp(np.ceil(u + 1))
    top, bottom = nb.uintp(np.floor(v + 1)), nb.uintp(np.ceil(v + 1))
    row = nb.uintp(wide)
    return top * row + left, top * row + right, bottom * row + left, bottom * row + right


@nb.njit(cache=True)
def _mark(mark, wide, high, points, valid, P, floor):
    """Mark the pixels that points deeper than `floor` touch; whether there are any."""
    found = False
    for i in range(len(points)):
        x, y, w = points[i, 0], points[i, 1], points[i, 2]
        z = P[2, 0] * x + P[2, 1] * y + P[2, 2] * w + P[2, 3]
        if z <= floor or not valid[i]:
            continue
        u, v = _column_row(P, x, y, w, z)
        if u > -1 and v > -1 and u < wide - 2 and v < high - 2:
            a, b, c, d = _touched(wide, u, v)
            mark[a] = mark[b] = mark[c] = mark[d] = True
            found = True
    return found


@nb.njit(cache=True)
def _add_marked(canvas, mark, wide, high, nothing, points, valid, P, power):
    """Add the points that touch a marked pixel; sums of other pixels are incomplete."""
    for i in range(len(points)):
        x, y, w = points[i, 0], points[i, 1], points[i, 2]
        z = P[2, 0] * x + P[2, 1] * y + P[2, 2] * w + P[2, 3]
        if z <= 0 or not valid[i]:
            continue
        u, v = _column_row(P, x, y, w, z)
        if not (u > -1 and v > -1 and u < wide - 2 and v < high - 2):
            continue
        a, b, c, d = _touched(wide, u, v)
        if mark[a] or mark[b] or mark[c] or mark[d]:
            weight = _weight(z, power)
            add_sample(canvas, wide, high, u, v, nothing, 0, weight, np.float32(z), (), (0,))


@nb.njit(cache=True, parallel=True)
def deepest(points, valid, P, power, floor, rows, columns):
    """Largest blended depth of each view [t] where it exceeds `floor`, else 0.

    A blend is a mean of the depths that land on a pixel. It exceeds `floor` only where one of them
    does, so only the pixels that such points touch are summed up, as in a full splat.
    """
    out = np.zeros(len(P), np.float32)
    nothing = np.zeros((1, 1), np.float32)
    for t in nb.prange(len(P)):
        wide, high = columns + 2, rows + 2
        mark = np.zeros(wide * high, np.bool_)
        if _mark(mark, wide, high, points, valid, P[t], floor):
            canvas = np.zeros(wide * high * 2, np.float32)
            _add_marked(canvas, mark, wide, high, nothing, points, valid, P[t], power[t])
            most = np.float32(0)
            for y in range(1, rows + 1):
                for at in range(y * wide + 1, y * wide + 1 + columns):
                    if mark[at] and canvas[2 * at + 1] > 0:
                        share = np.float32(1) / canvas[2 * at + 1]
                        most = max(most, canvas[2 * at] * share)
            out[t] = most if most > floor else np.float32(0)
    return out


@nb.njit(cache=True, parallel=True)
def rescale(values, low, factor):
    """Map values [8 8 t h w] in place to (value - low) x factor - 1."""
    one = np.float32(1)
    for k in nb.prange(BLOCK * BLOCK):
        part = values[k // BLOCK, k % BLOCK]
        for t in range(part.shape[0]):
            for y in range(part.shape[1]):
                for x in range(part.shape[2]):
                    part[t, y, x] = (part[t, y, x] - low) * factor - one
