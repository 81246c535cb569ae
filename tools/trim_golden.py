"""Copy a part of the recorded vectors into tests/golden: `python tools/trim_golden.py FROM TO`.

Every component keeps at least one case; the whole set is used where it is present (tests/parity).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

KEPT = (
    "dit_clean_init", "dit_fp_full_copied", "dit_fp_inject_all",
    "dit_plain_t2v", "framepack_metadata", "retr_negative_ids", "retr_occlusion", "retr_ties",
    "geo_reliable_depth", "geo_canonical_coords", "geo_warp_bad_depth", "geo_warp_single",
    "sampler_*", "vae_weights",
    "vae_streaming", "clip_vision_0", "traj_*", "depth_window_*", "train_plain",
    "prep_weights", "prep_first_chunk", "pipeline_weights", "ar_dmd", "umt5_encoder",
    "lora_distilled_style",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Copy the cases and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(argv)
    whole = json.loads((options.source / "cases.json").read_text("utf-8"))
    kept = [case for case in whole["cases"] if any(Path(case["name"]).match(k) for k in KEPT)]
    options.target.mkdir(parents=True, exist_ok=True)
    for case in kept:
        if case.get("file"):
            shutil.copyfile(options.source / case["file"], options.target / case["file"])
    text = json.dumps({**whole, "cases": kept}, separators=(",", ":"))
    (options.target / "cases.json").write_text(text + "\n", "utf-8")
    size = sum(file.stat().st_size for file in options.target.iterdir()) / 1e6
    sys.stdout.write(f"{len(kept)} of {len(whole['cases'])} entries, {size:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
