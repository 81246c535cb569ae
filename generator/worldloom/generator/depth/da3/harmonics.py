"""Spherical harmonics of cameras -> of the world, degrees 1 and 2 (spec reconstruction 2.8).

The released code turns them by Wigner's matrices of swapped axes and a negated angle; worked out,
that is the rotation in the renderers' own basis, which `scene.harmonics_rotation` fits exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldloom.scene.harmonics_rotation import rotation_of_harmonics

FUNCTIONS = 8  # Of degrees 1 and 2.


def rotate_bands(sh: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients [v ... 9 c] of functions that turn with `rotation` [v 3 3]; the first stays."""
    turns = rotation.detach().double().cpu().numpy()
    matrices = np.stack([rotation_of_harmonics(r)[:FUNCTIONS, :FUNCTIONS] for r in turns])
    turn = torch.from_numpy(matrices).to(sh)
    turn = turn.reshape(len(turn), *(1,) * (sh.ndim - 3), FUNCTIONS, FUNCTIONS)
    return torch.cat([sh[..., :1, :], turn @ sh[..., 1:, :]], -2)
