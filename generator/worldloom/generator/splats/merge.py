"""Many splats -> fewer that look the same: groups of splats become one by their moments.

A group is replaced by the Gaussian with the group's mean and covariance, the members' own extents
included (spec reconstruction 8.6). Which splats form a group is decided by `adaptive_groups`,
which joins the pairs of neighbours that change the picture least, or by `voxel_groups`, which puts
all splats of a cell of the closest view's footprint together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.frame import matrix_from_quat_wxyz, quat_wxyz_from_matrix
from worldloom.scene.splats import Splats

NEIGHBOURS = 6
"""Nearest splats that a splat may join; on a pixel grid four lie beside it and two beyond."""
SHAPE_COST = 2e-4
"""Squared colour error that a spread of one pixel weighs as much as: keeps groups compact."""
OFF_PLANE = 8.0  # Leaving the tangent plane counts this many times the same way along it.
TURN_COST = 0.3  # Squared colour error that normals at a right angle weigh as much as.
FIRST_COST = 5e-5  # First squared colour error that is accepted: 1.8 grey levels.
COST_STEP = 2.0  # Growth of the accepted error from pass to pass.
ROUNDS = 3  # Contractions at one accepted error: a group at most doubles in each.
SPREAD = 3.4
"""Factor on the spread of a group's centres. A row of k pixels has the spread (k^2 - 1) / 12, so
12 x 0.55^2 = 3.6 makes its disc k times that of a pixel; that is best, measured, too:
a little less blurs less at edges."""


@dataclass(frozen=True)
class Marks:
    """What is known of each splat besides the splat itself."""

    weight: NDArray[np.float32]
    """Weight in means: opacity x confidence x cosine / depth^2, shape [n]."""
    footprint: NDArray[np.float32]
    """Side of a pixel on the surface in the view that made the splat [m], shape [n]."""

    def select(self, index: ArrayLike) -> Marks:
        """The marks at `index` (mask or integers)."""
        return Marks(self.weight[index], self.footprint[index])


def merge_groups(splats: Splats, marks: Marks, groups: NDArray[np.int64]) -> tuple[Splats, Marks]:
    """One splat for each group, by moments.

    Args:
        splats: n splats.
        marks: Their weights and footprints.
        groups: Number of each splat's group, 0 .. m - 1 without gaps, [n].

    Returns:
        m splats and their marks (the sum of weights, the least footprint).
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(count + 1))
    axes = matrix_from_quat_wxyz(splats.quats_wxyz) if splats.n else np.zeros((0, 3, 3))
    half = axes * splats.scales[:, None, :]
    mean, cov, opacity, sh = _moments(
        order, starts, splats.means.astype(np.float64), half @ half.transpose(0, 2, 1),
        splats.opacities, splats.sh.reshape(splats.n, 3 * splats.sh.shape[1]),
        marks.weight.astype(np.float64),
    )  # fmt: skip
    merged = Splats(mean.astype(np.float32), *_ellipsoids(cov), opacity,
                    sh.reshape(count, *splats.sh.shape[1:]))  # fmt: skip
    # A group of one stays what it is, to the bit.
    alone = np.diff(starts) == 1
    same = splats.select(order[starts[:-1][alone]])
    for new, old in zip(merged._arrays(), same._arrays(), strict=True):
        new[alone] = old
    weight = np.add.reduceat(marks.weight[order], starts[:-1]) if count else marks.weight
    fine = np.minimum.reduceat(marks.footprint[order], starts[:-1]) if count else marks.footprint
    return merged, Marks(weight.astype(np.float32), fine.astype(np.float32))


def voxel_groups(
    splats: Splats, marks: Marks, *, cell_footprints: float = 1.5
) -> NDArray[np.int64]:
    """Groups [n] of the splats in one voxel, its side the closest view's footprint x a factor.

    Sides are powers of two, so that splats of similar footprint share a grid.
    """
    if splats.n == 0:
        return np.zeros(0, np.int64)
    level = np.floor(np.log2(np.maximum(cell_footprints * marks.footprint, 1e-9))).astype(np.int64)
    # Sixteen sizes and 2^20 cells along each axis fit one integer, which sorts fast.
    level = np.minimum(level - level.min(), 15) + level.min()
    place = (splats.means - splats.means.min(0)) / np.exp2(level.astype(np.float64))[:, None]
    cell = np.minimum(np.floor(place).astype(np.int64), (1 << 20) - 1)
    keys = (level - level.min()) << 60 | cell[:, 0] << 40 | cell[:, 1] << 20 | cell[:, 2]
    return np.unique(keys.view(np.uint64), return_inverse=True)[1].reshape(-1)


def adaptive_groups(
    splats: Splats, *, wanted: int, error: float, error_max: float
) -> NDArray[np.int64]:
    """Groups [n] made by joining neighbours, the least visible joins first.

    Ward's rule on pixels: joining groups of a and b pixels costs a b / (a + b) x (squared colour
    difference + squared distance in pixels x SHAPE_COST, much more across the surface). Pairs that
    are each other's cheapest neighbour are joined while that costs no more than a bound. The bound
    rises to `error`, and on to `error_max` until `wanted` groups are left.

    Args:
        splats: n splats of about one pixel each.
        wanted: Groups that are few enough.
        error: Cost up to which joins are made in any case, in squared sRGB colour.
        error_max: Highest cost of a join.
    """
    from scipy.spatial import cKDTree

    groups = np.arange(splats.n)
    if splats.n <= NEIGHBOURS:
        return groups
    _, near = cKDTree(splats.means).query(splats.means, k=NEIGHBOURS + 1, workers=-1)
    edges = _edges(np.repeat(groups, NEIGHBOURS), near[:, 1:].reshape(-1))
    state = _features(splats)
    size = np.ones(splats.n, np.float64)
    cost = FIRST_COST
    while cost <= error or (cost <= error_max and len(size) > wanted):
        spare = len(size) if cost <= error else len(size) - wanted
        for _ in range(ROUNDS):
            partner = _partners(edges, state, size, cost, spare)
            label = _relabel(partner)
            if label.max() + 1 == len(size):
                break
            groups = label[groups]
            state, size = _join(label, state, size)
            edges = _contract(edges, label)
        cost *= COST_STEP
    return groups


def _features(splats: Splats) -> NDArray[np.float64]:
    """Colour 3, position 3, normal 3 and pixel metric 6 of each splat, [n 15].

    The metric tensor turns an offset [m] into squared pixels: 1 along each side of the pixel.
    """
    axes = matrix_from_quat_wxyz(splats.quats_wxyz)
    thin = np.argmin(splats.scales, 1)
    rows = np.arange(splats.n)
    normal = axes[rows, :, thin]
    scales = splats.scales.astype(np.float64).copy()
    wide = np.maximum(scales.max(1), 1e-12)
    scales[rows, thin] = np.sort(scales, 1)[:, 1] / np.sqrt(OFF_PLANE)
    inverse = axes * (0.55 / np.maximum(scales, 1e-6 * wide[:, None]))[:, None, :]
    metric = inverse @ inverse.transpose(0, 2, 1)
    six = metric[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    return np.concatenate([splats.rgb(), splats.means, normal, six], 1).astype(np.float64)


def _edges(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each pair once, the smaller number first, in ascending order, [e 2]."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    count = int(high.max()) + 1
    keys = np.sort((low * count + high)[low != high])
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return np.stack([keys // count, keys % count], 1)


@nb.njit(cache=True)
def _contract(edges, label):
    """Edges between the joined nodes; loops go, repeated pairs stay and do no harm."""
    out = np.empty_like(edges)
    count = 0
    for e in range(len(edges)):
        i, j = label[edges[e, 0]], label[edges[e, 1]]
        if i != j:
            out[count, 0], out[count, 1] = i, j
            count += 1
    return out[:count].copy()


@nb.njit(cache=True)
def _partners(edges, state, size, limit, most):
    """The mutually cheapest neighbour of each node within the limit, itself if none; [n]."""
    n = len(size)
    best = np.full(n, np.inf)
    partner = np.arange(n)
    for e in range(len(edges)):
        i, j = edges[e, 0], edges[e, 1]
        colour, turn = 0.0, 0.0
        for c in range(3):
            colour += (state[i, c] - state[j, c]) ** 2
            turn += state[i, 6 + c] * state[j, 6 + c]
        d0, d1, d2 = state[i, 3] - state[j, 3], state[i, 4] - state[j, 4], state[i, 5] - state[j, 5]
        apart = 0.0
        for k in (i, j):
            m = state[k, 9:]
            apart += 0.5 * (m[0] * d0 * d0 + m[3] * d1 * d1 + m[5] * d2 * d2)
            apart += m[1] * d0 * d1 + m[2] * d0 * d2 + m[4] * d1 * d2
        cost = colour + SHAPE_COST * apart + TURN_COST * (1.0 - abs(turn))
        cost *= size[i] * size[j] / (size[i] + size[j])
        if cost > limit:
            continue
        if cost < best[i]:
            best[i], partner[i] = cost, j
        if cost < best[j]:
            best[j], partner[j] = cost, i
    joined = 0
    for i in range(n):
        j = partner[i]
        if partner[j] != i or (i < j and joined >= most):
            partner[i] = i
        elif i < j:
            joined += 1
    for i in range(n):
        if partner[partner[i]] != i:
            partner[i] = i
    return partner


def _relabel(partner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Consecutive numbers for pairs and single nodes, [n]."""
    first = np.minimum(partner, np.arange(len(partner)))
    leads = first == np.arange(len(partner))
    return (np.cumsum(leads) - 1)[first]


@nb.njit(cache=True)
def _join(label, state, size):
    """Means of the joined nodes' features, weighted by size, and their sizes."""
    count = label.max() + 1
    total = np.zeros(count)
    out = np.zeros((count, state.shape[1]))
    for i in range(len(label)):
        g = label[i]
        flip = 1.0
        if total[g] > 0:
            dot = 0.0
            for c in range(6, 9):
                dot += out[g, c] * state[i, c]
            flip = -1.0 if dot < 0 else 1.0
        for c in range(state.shape[1]):
            value = state[i, c] * (flip if 6 <= c < 9 else 1.0)
            out[g, c] += size[i] * value
        total[g] += size[i]
    for g in range(count):
        for c in range(state.shape[1]):
            out[g, c] /= total[g]
        length = np.sqrt(out[g, 6] ** 2 + out[g, 7] ** 2 + out[g, 8] ** 2)
        for c in range(6, 9):
            out[g, c] /= max(length, 1e-12)
    return out, total


@nb.njit(cache=True)
def _moments(order, starts, means, covs, opacities, sh, weights):
    """Mean, covariance, opacity and harmonics of each group; one serial loop per group."""
    count = len(starts) - 1
    mean, cov = np.zeros((count, 3)), np.zeros((count, 3, 3))
    opacity, colour = np.zeros(count, np.float32), np.zeros((count, sh.shape[1]), np.float32)
    for g in range(count):
        total, clear = 0.0, 0.0
        mixed = np.zeros(sh.shape[1])
        for k in range(starts[g], starts[g + 1]):
            i = order[k]
            w = max(weights[i], 1e-30)
            total += w
            clear += np.log(max(1.0 - opacities[i], 1e-6))
            for a in range(3):
                mean[g, a] += w * means[i, a]
            for c in range(sh.shape[1]):
                mixed[c] += w * sh[i, c]
        mean[g] /= total
        for c in range(sh.shape[1]):
            colour[g, c] = mixed[c] / total
        for k in range(starts[g], starts[g + 1]):
            i = order[k]
            w = max(weights[i], 1e-30) / total
            for a in range(3):
                for b in range(3):
                    off = (means[i, a] - mean[g, a]) * (means[i, b] - mean[g, b])
                    cov[g, a, b] += w * (covs[i, a, b] + SPREAD * off)
        opacity[g] = 1.0 - np.exp(clear / (starts[g + 1] - starts[g]))
    return mean, cov, opacity, colour


def _ellipsoids(cov: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales [n 3], largest first, and rotations wxyz [n 4] of covariances [n 3 3]."""
    if len(cov) == 0:
        return np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    value, axes = np.linalg.eigh(cov)
    value, axes = value[:, ::-1], axes[:, :, ::-1].copy()
    axes[:, :, 2] *= np.where(np.linalg.det(axes) < 0, -1.0, 1.0)[:, None]
    scales = np.sqrt(np.maximum(value, 1e-14))
    return scales.astype(np.float32), quat_wxyz_from_matrix(axes).astype(np.float32)
