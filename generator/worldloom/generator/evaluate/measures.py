"""What is measured: name, unit and direction of every number, and the number or why there is none.

A measurement carries the data it was made with. Published numbers are of another kind
(`published`) and never become measurements.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One line of the tables."""

    title: str
    unit: str
    better: str
    """`up`, `down`, or empty for costs and facts that are not judged."""
    digits: int
    group: str


@dataclass(frozen=True)
class Measure:
    """One measured number, or the reason why it was not measured."""

    key: str
    """Name in KINDS."""
    value: float | None
    data: str = ""
    """With what data it was measured."""
    reason: str = ""
    """Why there is no value."""
    note: str = ""
    """What must be known to read the value."""


VIDEO, SPLATS, TRUTH = (
    "video against reference frames", "splats against the video (held-out frames)",
    "splats against reference frames",
)  # fmt: skip
STEADY, SHAPE, COST = "consistency and control", "collider", "cost"
GROUPS = (VIDEO, SPLATS, TRUTH, STEADY, SHAPE, COST)

KINDS = {
    "video_psnr": Kind("PSNR", "dB", "up", 2, VIDEO),
    "video_ssim": Kind("SSIM", "", "up", 3, VIDEO),
    "video_ms_ssim": Kind("MS-SSIM", "", "up", 3, VIDEO),
    "video_lpips_alex": Kind("LPIPS (AlexNet)", "", "down", 3, VIDEO),
    "video_lpips_vgg": Kind("LPIPS (VGG-16)", "", "down", 3, VIDEO),
    "video_fid": Kind("FID", "", "down", 2, VIDEO),
    "splat_psnr": Kind("PSNR", "dB", "up", 2, SPLATS),
    "splat_ssim": Kind("SSIM", "", "up", 3, SPLATS),
    "splat_ms_ssim": Kind("MS-SSIM", "", "up", 3, SPLATS),
    "splat_covered": Kind("covered pixels", "%", "up", 2, SPLATS),
    "splat_covered_psnr": Kind("PSNR where covered", "dB", "up", 2, SPLATS),
    "splat_lpips_p_alex": Kind("LPIPS-P (AlexNet)", "", "down", 3, SPLATS),
    "splat_lpips_p_vgg": Kind("LPIPS-P (VGG-16)", "", "down", 3, SPLATS),
    "truth_psnr": Kind("PSNR", "dB", "up", 2, TRUTH),
    "truth_ssim": Kind("SSIM", "", "up", 3, TRUTH),
    "truth_ms_ssim": Kind("MS-SSIM", "", "up", 3, TRUTH),
    "truth_lpips_g_alex": Kind("LPIPS-G (AlexNet)", "", "down", 3, TRUTH),
    "truth_lpips_g_vgg": Kind("LPIPS-G (VGG-16)", "", "down", 3, TRUTH),
    "truth_fid": Kind("FID", "", "down", 2, TRUTH),
    "style": Kind("style consistency", "", "up", 2, STEADY),
    "subjective": Kind("subjective quality", "", "up", 2, STEADY),
    "camera": Kind("camera controllability", "", "up", 2, STEADY),
    "camera_rotation": Kind("rotation error", "degrees", "down", 3, STEADY),
    "camera_translation": Kind("translation error", "m", "down", 4, STEADY),
    "reprojection_exact": Kind("reprojection, exact geometry", "px", "down", 3, STEADY),
    "reprojection": Kind("reprojection, round trip", "px", "down", 3, STEADY),
    "depth_steady": Kind("depth consistency, neighbours", "%", "down", 3, STEADY),
    "depth_visits": Kind("depth consistency, revisits", "%", "down", 3, STEADY),
    "revisit_psnr": Kind("revisit PSNR", "dB", "up", 2, STEADY),
    "revisit_lpips": Kind("revisit LPIPS (AlexNet)", "", "down", 3, STEADY),
    "collider_f": Kind("F-score at 5 cm", "", "up", 3, SHAPE),
    "collider_accuracy": Kind("accuracy", "cm", "down", 2, SHAPE),
    "collider_completeness": Kind("completeness", "cm", "down", 2, SHAPE),
    "drop_rest": Kind("spheres at rest on it", "%", "up", 2, SHAPE),
    "drop_below": Kind("spheres fallen through", "", "down", 0, SHAPE),
    "seconds": Kind("whole run", "s", "", 1, COST),
    "seconds_per_chunk": Kind("per 80 frames", "s", "", 1, COST),
    "peak_memory": Kind("peak memory", "MB", "", 0, COST),
}
"""Every measurement by its name in reports."""


def unmeasured(keys: tuple[str, ...], reason: str) -> list[Measure]:
    """Measurements that could not be made."""
    return [Measure(key, None, reason=reason) for key in keys]


def number(measure: Measure) -> str:
    """A value for people, or a dash."""
    if measure.value is None:
        return "-"
    kind = KINDS[measure.key]
    return f"{measure.value:.{kind.digits}f}" + (f" {kind.unit}" if kind.unit else "")
