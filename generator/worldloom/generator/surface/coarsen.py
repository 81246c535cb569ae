"""Blocks of several levels -> the same field with one level less, when memory runs out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.surface.keys import BLOCK


def one_level_less(
    coords: NDArray[np.int32], fields: Mapping[str, NDArray]
) -> tuple[NDArray[np.int32], dict[str, NDArray]]:
    """Fold level 0 into level 1 and count levels from there.

    Every second sample of a fine block lies on a sample of its parent. What the parent measured
    itself stays; elsewhere it takes the fine distance, which is exact up to the finer truncation.

    Args:
        coords: Level and coordinates of each block, [b 4].
        fields: `tsdf`, `weight`, `free` and `rgb` of each sample, [b 512 ...].

    Returns:
        The blocks of level 1 and up, renamed to 0 and up, and their fields.
    """
    fine = coords[:, 0] == 0
    kept = coords[~fine]
    kept = kept - np.array([1, 0, 0, 0], np.int32)
    parents = coords[fine, 1:] >> 1
    above = np.concatenate([kept, np.column_stack([np.zeros(len(parents), np.int32), parents])])
    _, first, inverse = np.unique(above, axis=0, return_index=True, return_inverse=True)
    # Old coarse blocks keep their order, new parents follow in the order of their children.
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    home = place[inverse.reshape(-1)[len(kept) :]]
    out = {}
    for name, array in fields.items():
        out[name] = np.zeros((len(order), *array.shape[1:]), array.dtype)
        out[name][: len(kept)] = array[~fine]
    _fold(out, {name: array[fine] for name, array in fields.items()}, coords[fine, 1:] & 1, home)
    return above[first[order]].astype(np.int32), out


def _fold(
    out: dict[str, NDArray],
    fine: Mapping[str, NDArray],
    half: NDArray[np.int32],
    home: NDArray[np.integer],
) -> None:
    """Put every second sample of children [f 512] into the eighth `half` [f 3] of blocks `home`."""
    axis = np.arange(0, BLOCK, 2)
    child = ((axis[:, None, None] * BLOCK + axis[:, None]) * BLOCK + axis).reshape(-1)
    for octant in range(8):
        corner = np.array([octant >> 2, (octant >> 1) & 1, octant & 1])
        mine = np.nonzero((half == corner).all(1))[0]
        at = [BLOCK // 2 * c + np.arange(BLOCK // 2) for c in corner]
        parent = ((at[0][:, None, None] * BLOCK + at[1][:, None]) * BLOCK + at[2]).reshape(-1)
        target = (home[mine][:, None], parent)
        source = (mine[:, None], child)
        open_ = (out["weight"][target] <= 0) & (fine["weight"][source] > 0)
        for name in ("tsdf", "weight", "free", "rgb"):
            new = fine[name][source] * (0.5 if name == "tsdf" else 1)
            keep = open_ if new.ndim == 2 else open_[..., None]
            out[name][target] = np.where(keep, new, out[name][target])
