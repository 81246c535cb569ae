"""How far the cameras and depth maps of generated frames are trusted; the preset's `align`."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Belief:
    """Standard deviations of what a frame model and a depth model say."""

    turn_deg: float = 1.0
    """Direction of a camera against the commanded one [degree]."""
    centre: float = 0.005
    """Position of a camera against the commanded one, per axis, as a share of the usual depth."""
    field: float = 0.03
    """Relative error of a depth map, slowly varying."""
    roughness: float = 0.03
    """Second difference of that error between cells of the grid."""
    pixel: float = 0.3
    """Error of a matched place [px]."""
    depth: float = 0.01
    """Relative error of a depth map from pixel to pixel."""

    def in_metres(self, usual_depth: float) -> Belief:
        """The same with `centre` in the unit of the depth maps."""
        return replace(self, centre=self.centre * usual_depth)
