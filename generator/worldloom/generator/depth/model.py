"""The seam of depth models: RGB [h w 3] -> relative inverse depth [h w].

Whatever stands behind it, its answer is turned to metres by `metric` and put on the floor by
`floor`; a model needs to know neither the camera nor the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WeightsRecord:
    """Weights that took part, as a manifest names them."""

    name: str
    sha256: str
    licence: str
    research_only: bool

    def to_json(self) -> dict[str, str | bool]:
        """As a plain dictionary."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "licence": self.licence,
            "research_only": self.research_only,
        }


class DepthModel(Protocol):
    """Estimates depth from one view."""

    @property
    def name(self) -> str:
        """What `manifest.depth_source` says."""
        ...

    @property
    def weights(self) -> tuple[WeightsRecord, ...]:
        """The weights in use."""
        ...

    def inverse_depth(self, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        """Relative inverse depth [h w] of sRGB colours in 0..1 [h w 3].

        Bigger is nearer; scale and shift are unknown.
        """
        ...
