"""One depth map -> blocks near its surface, and new running means in all blocks (numba).

Distances are measured to the tangent plane of the pixel, with inverse depth interpolated between
pixels, so that a plane seen at any angle is fused without a ripple (spec reconstruction 4.2).
Each block is one serial loop: the same frames give the same numbers on any number of threads.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from worldloom.generator.surface.keys import BLOCK, find, find_or_put, pack, put

WEIGHT_MAX = 4096.0  # A static world needs no short memory; this only bounds rounding.
RAMP_FROM = -0.25  # Votes fall from here to 0 at -1: behind a thin thing lies another surface.
JUMP_RATIO = 1.3  # Inverse depths of four neighbours that differ more are not interpolated.
VOTE_MIN, VOTE_MAX = 1e-4, 64.0  # Bounds of (near distance / depth)^2.
COLOUR_LEVELS = 65535.0  # Colours are kept as 16-bit means.
CLAIM_COSINE = 0.35  # Surface seen flatter than this claims no more along the ray.
TILE = 16  # Pixels of a side of the tiles that hold the largest depth.
NEAREST_M = 1e-4  # Nothing nearer to the camera plane is projected [m].


@nb.njit(cache=True)
def _steps(reach):
    """Places along a ray from -reach to reach [voxels], half a block apart or less."""
    return max(2, int(np.ceil(2 * reach / (0.5 * BLOCK))) + 1)


@nb.njit(cache=True, error_model="numpy")
def touch(depth, facing, spacing, c2w, K, plan, origin, keys, values, start, count, room):
    """Claim the blocks within the truncation of any pixel's surface, in pixel order.

    The truncation is measured along the normal, so a slanted surface claims more along the ray.

    Args:
        depth: z-depth of the pixels to fuse [m], 0 = none, [h w].
        facing: Cosine between ray and normal, [h w].
        spacing: Distance between neighbouring pixels on the surface [m], [h w].
        c2w: Camera to world.
        K: Intrinsics.
        plan: voxel, levels, truncation in voxels, near distance.
        origin: World position of lattice point 0 on every axis [m].
        keys: Table of blocks, and `values` its numbers.
        values: See `keys`.
        start: First row.
        count: Blocks that are known.
        room: Blocks that the table may hold.

    Returns:
        The new blocks [m 4], and the row to go on with once the table has grown.
    """
    height, width = depth.shape
    voxel, levels, trunc, near = plan[0], int(plan[1]), plan[2], plan[3]
    found = np.zeros((1024, 4), np.int32)
    new = 0
    most = _steps(trunc / CLAIM_COSINE)
    last = np.full((most, 4), -(2**30), np.int64)
    for row in range(start, height):
        if count + new + width * most > room:
            return found[:new], row
        for column in range(width):
            z = depth[row, column]
            if z <= 0:
                continue
            x = (column + 0.5 - K[0, 2]) / K[0, 0]
            y = (row + 0.5 - K[1, 2]) / K[1, 1]
            length = np.sqrt(x * x + y * y + 1)
            level, limit = 0, 2 * near
            while level < levels - 1 and z * length >= limit:
                level, limit = level + 1, 2 * limit
            size = voxel * (1 << level)
            side = size * BLOCK
            # Every second pixel is enough where pixels lie much closer than blocks.
            if (row & 1 or column & 1) and 4 * spacing[row, column] < side:
                continue
            wx = c2w[0, 0] * x + c2w[0, 1] * y + c2w[0, 2]
            wy = c2w[1, 0] * x + c2w[1, 1] * y + c2w[1, 2]
            wz = c2w[2, 0] * x + c2w[2, 1] * y + c2w[2, 2]
            reach = trunc / max(facing[row, column], CLAIM_COSINE)
            steps = _steps(reach)
            for s in range(steps):
                at = z + (2.0 * s / (steps - 1) - 1) * reach * size / length
                bi = int(np.floor((wx * at + c2w[0, 3] - origin) / side))
                bj = int(np.floor((wy * at + c2w[1, 3] - origin) / side))
                bk = int(np.floor((wz * at + c2w[2, 3] - origin) / side))
                if (
                    last[s, 1] == bi
                    and last[s, 2] == bj
                    and last[s, 3] == bk
                    and last[s, 0] == level
                ):
                    continue
                last[s, 0], last[s, 1], last[s, 2], last[s, 3] = level, bi, bj, bk
                number = np.int32(count + new)
                if find_or_put(keys, values, pack(level, bi, bj, bk), number) != number:
                    continue
                if new == found.shape[0]:
                    larger = np.zeros((2 * new, 4), np.int32)
                    larger[:new] = found
                    found = larger
                found[new, 0], found[new, 1] = level, bi
                found[new, 2], found[new, 3] = bj, bk
                new += 1
    return found[:new], height


@nb.njit(cache=True)
def farthest(inverse, facing):
    """Largest depth, and largest 1 / cosine, of each tile [th tw 2]; 0 where it has no surface."""
    height, width = inverse.shape
    out = np.zeros(((height + TILE - 1) // TILE, (width + TILE - 1) // TILE, 2))
    for row in range(height):
        for column in range(width):
            if inverse[row, column] > 0:
                i, j = row // TILE, column // TILE
                out[i, j, 0] = max(out[i, j, 0], 1.0 / inverse[row, column])
                out[i, j, 1] = max(out[i, j, 1], 1.0 / facing[row, column])
    return out


@nb.njit(cache=True, error_model="numpy")
def _may_matter(far, centre, reach, trunc, K, height, width):
    """Whether a ball of space in camera axes can hold a voxel that this frame says something of."""
    zc = centre[2]
    if zc < -reach:
        return False
    if zc <= 2 * reach:
        return True
    # The picture of a ball is within this of the picture of its centre.
    u, v = K[0, 0] * centre[0] / zc + K[0, 2], K[1, 1] * centre[1] / zc + K[1, 2]
    slant = np.sqrt(centre[0] ** 2 + centre[1] ** 2 + zc**2) / zc
    du, dv = K[0, 0] * reach * slant / (zc - reach), K[1, 1] * reach * slant / (zc - reach)
    if u < -du or v < -dv or u > width + du or v > height + dv:
        return False
    c0, c1 = max(0, int((u - du) / TILE)), min(far.shape[1] - 1, int((u + du) / TILE))
    r0, r1 = max(0, int((v - dv) / TILE)), min(far.shape[0] - 1, int((v + dv) / TILE))
    for r in range(r0, r1 + 1):
        for c in range(c0, c1 + 1):
            # Behind a slanted surface the truncation is longer along z than along the normal.
            if far[r, c, 0] > 0 and zc - reach <= far[r, c, 0] + trunc * far[r, c, 1]:
                return True
    return False


@nb.njit(
    parallel=True, cache=True, error_model="numpy", fastmath={"nsz", "arcp", "contract", "reassoc"}
)
def integrate(
    tsdf, weight, free, rgb, coords, count, inverse, facing, normal, amount, image, far, w2c, K,
    plan, origin,
):  # fmt: skip
    """Update every voxel of the first `count` blocks that projects onto a pixel with a surface.

    `inverse` is the inverse depth [1/m], 0 = none, and negative at edges and creases, across which
    nothing is interpolated.
    """
    height, width = inverse.shape
    for b in nb.prange(count):
        voxel = plan[0] * (1 << coords[b, 0])
        trunc = plan[2] * voxel
        base = np.zeros(3)
        step = np.zeros((3, 3))
        centre = np.zeros(3)
        for r in range(3):
            base[r] = w2c[r, 3]
            for c in range(3):
                step[r, c] = w2c[r, c] * voxel
                base[r] += w2c[r, c] * (coords[b, 1 + c] * BLOCK * voxel + origin)
            centre[r] = base[r] + 0.5 * BLOCK * (step[r, 0] + step[r, 1] + step[r, 2])
        reach = np.sqrt(3.0) * 0.5 * BLOCK * voxel
        if not _may_matter(far, centre, reach, trunc, K, height, width):
            continue
        for n in range(BLOCK**3):
            i, j, k = n >> 6, (n >> 3) & 7, n & 7
            cz = base[2] + step[2, 0] * i + step[2, 1] * j + step[2, 2] * k
            if cz < NEAREST_M:
                continue
            cx = base[0] + step[0, 0] * i + step[0, 1] * j + step[0, 2] * k
            cy = base[1] + step[1, 0] * i + step[1, 1] * j + step[1, 2] * k
            xn, yn = cx / cz, cy / cz
            u, v = K[0, 0] * xn + K[0, 2] - 0.5, K[1, 1] * yn + K[1, 2] - 0.5
            if not (u >= -0.5 and v >= -0.5 and u < width - 0.5 and v < height - 0.5):
                continue
            column, row = int(u + 0.5), int(v + 0.5)
            if inverse[row, column] == 0:
                continue
            surface = 1.0 / _inverse_at(inverse, normal, K, u, v, row, column)
            cosine = facing[row, column]
            distance = (surface - cz) * np.sqrt(xn * xn + yn * yn + 1) * cosine
            if distance < -trunc:
                continue
            vote = cosine * amount[row, column]
            if distance > trunc:
                free[b, n] += vote
                continue
            share = distance / trunc
            if share < RAMP_FROM:
                vote *= (share + 1) / (1 + RAMP_FROM)
            if vote <= 0:
                continue
            old = weight[b, n]
            part = vote / (old + vote)
            tsdf[b, n] += part * (share - tsdf[b, n])
            for channel in range(3):
                mean = rgb[b, n, channel]
                mean += part * (COLOUR_LEVELS * image[row, column, channel] - mean)
                rgb[b, n, channel] = np.uint16(mean + 0.5)
            weight[b, n] = min(old + vote, WEIGHT_MAX)


@nb.njit(cache=True, error_model="numpy")
def _inverse_at(inverse, normal, K, u, v, row, column):
    """Inverse depth between pixels: of the four around, or of the nearest's tangent plane."""
    height, width = inverse.shape
    x0, y0 = math.floor(u), math.floor(v)
    if x0 >= 0 and y0 >= 0 and x0 + 1 < width and y0 + 1 < height:
        a, b = inverse[y0, x0], inverse[y0, x0 + 1]
        c, d = inverse[y0 + 1, x0], inverse[y0 + 1, x0 + 1]
        least = min(a, b, c, d)
        if least > 0 and max(a, b, c, d) <= JUMP_RATIO * least:
            fx, fy = u - x0, v - y0
            return (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
    # On a plane 1/z goes as normal . ray.
    nx, ny, nz = normal[row, column, 0], normal[row, column, 1], normal[row, column, 2]
    here = nx * (column + 0.5 - K[0, 2]) / K[0, 0] + ny * (row + 0.5 - K[1, 2]) / K[1, 1] + nz
    there = nx * (u + 0.5 - K[0, 2]) / K[0, 0] + ny * (v + 0.5 - K[1, 2]) / K[1, 1] + nz
    change = there / here if here != 0 else 1.0
    return abs(inverse[row, column]) * min(max(change, 1 / JUMP_RATIO), JUMP_RATIO)


@nb.njit(cache=True)
def refine(tsdf, weight, free, rgb, coords, keys, values, order):
    """Start the blocks `order` with what the next coarser level knows of their place.

    The coarse field is interpolated linearly; distances are re-cut to the finer truncation, so
    that both levels describe the same field (spec 4.2, Consistency across levels).
    """
    sums = np.zeros(3)
    for b in order:
        up = coords[b, 0] + 1
        # A parent is at the half position of its child; its upper neighbours hold the last odd row.
        for n in range(BLOCK**3):
            at = (
                coords[b, 1] * BLOCK + (n >> 6),
                coords[b, 2] * BLOCK + ((n >> 3) & 7),
                coords[b, 3] * BLOCK + (n & 7),
            )
            value, least, free_sum, parts = 0.0, np.inf, 0.0, 0
            sums[:] = 0
            for corner in range(8):
                if (
                    (corner & 4 and not at[0] & 1)
                    or (corner & 2 and not at[1] & 1)
                    or (corner & 1 and not at[2] & 1)
                ):
                    continue
                i = (at[0] >> 1) + (corner >> 2)
                j = (at[1] >> 1) + ((corner >> 1) & 1)
                k = (at[2] >> 1) + (corner & 1)
                p = find(keys, values, pack(up, i >> 3, j >> 3, k >> 3))
                if p < 0:
                    least = 0.0
                    break
                m = ((i & 7) << 6) | ((j & 7) << 3) | (k & 7)
                least = min(least, weight[p, m])
                value += tsdf[p, m]
                free_sum += free[p, m]
                for channel in range(3):
                    sums[channel] += rgb[p, m, channel]
                parts += 1
            if least <= 0 or parts == 0:
                continue
            tsdf[b, n] = min(max(2 * value / parts, -1.0), 1.0)
            weight[b, n] = least
            free[b, n] = free_sum / parts
            for channel in range(3):
                rgb[b, n, channel] = np.uint16(sums[channel] / parts + 0.5)


@nb.njit(cache=True)
def unbalanced(coords, count, levels, keys, values, room):
    """Blocks [m 4] that are missing between neighbours whose levels differ by two or more.

    They are entered into the table as `count` and up. Finer levels come first, so that what is
    added there is balanced against coarser ones in turn. The second result tells whether the
    table was too small to go on.
    """
    found = np.zeros((1024, 4), np.int32)
    new = 0
    for level in range(levels - 2):
        for b in range(count + new):
            c = coords[b] if b < count else found[b - count]
            if c[0] != level:
                continue
            for n in range(27):
                i, j, k = c[1] + n // 9 - 1, c[2] + n // 3 % 3 - 1, c[3] + n % 3 - 1
                if n != 13 and find(keys, values, pack(level, i, j, k)) >= 0:
                    continue
                pi, pj, pk = i >> 1, j >> 1, k >> 1
                if find(keys, values, pack(level + 1, pi, pj, pk)) >= 0:
                    continue
                covered = False
                for up in range(level + 2, levels):
                    shift = up - level
                    if find(keys, values, pack(up, i >> shift, j >> shift, k >> shift)) >= 0:
                        covered = True
                        break
                if not covered:
                    continue
                if count + new >= room:
                    return found[:new], True
                put(keys, values, pack(level + 1, pi, pj, pk), np.int32(count + new))
                if new == found.shape[0]:
                    larger = np.zeros((2 * new, 4), np.int32)
                    larger[:new] = found
                    found = larger
                found[new, 0], found[new, 1] = level + 1, pi
                found[new, 2], found[new, 3] = pj, pk
                new += 1
    return found[:new], False
