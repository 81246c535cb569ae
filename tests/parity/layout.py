"""Adapter of the history layout's bookkeeping (exact)."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from tests.parity.harness import Case
from worldloom.generator.video.lyra.layout import (
    FRAMES_PER_LATENT,
    FramePack,
    retrieval_frames,
    timeline,
    training_window,
)  # fmt: skip

CANDIDATES_FROM = 100  # First number of the recorded memory candidates.


def run(case: Case) -> dict[str, Any]:
    """All layouts of the case, built anew."""
    layouts = [_layout(entry) for entry in case.data["layouts"]]
    return {"data": {"layouts": layouts}}


def _layout(entry: dict[str, Any]) -> dict[str, Any]:
    pack = FramePack.parse(entry["framepack_type"])
    kinds = [segment.kind for segment in pack.segments]
    return {
        "framepack_type": entry["framepack_type"],
        "clean_splits": [segment.count for segment in pack.segments],
        "clean_kernel_sizes": [segment.factor for segment in pack.segments],
        "clean_kernel_types": kinds,
        "num_temporal_hist": pack.temporal,
        "num_spatial_hist": pack.spatial,
        "num_history_latent": pack.history,
        "num_new_latent_frames": pack.new,
        "num_new_video_frames": pack.new_frames,
        "total_max_num_latent_frames": pack.total,
        "framepack_indices": list(range(pack.total)),
        "framepack_splits": pack.splits(),
        "framepack_kernel_ids": [*range(len(kinds)), -1],
        "framepack_kernel_types": kinds,
        "spatial_history_positions": pack.spatial_positions(),
        "history_selection": [_selection(pack, s) for s in entry["history_selection"]],
        "inference": _inference(pack, entry["inference"]),
        "training_window": [_window(pack, w) for w in entry["training_window"]],
    }


def _selection(pack: FramePack, entry: dict[str, Any]) -> dict[str, Any]:
    latents = entry["T_hist_total"]
    chosen = pack.select(latents)
    short = list(range(CANDIDATES_FROM, CANDIDATES_FROM + max(pack.spatial - 1, 0)))
    return {
        "T_hist_total": latents,
        "temporal_selected": chosen,
        "composed_temporal_only": chosen,
        "composed_all_no_spatial_candidates": pack.compose(chosen, [], latents - 1),
        "composed_all_with_spatial_candidates_100_onwards_one_short": pack.compose(
            chosen, short, latents - 1
        ),
    }


def _inference(pack: FramePack, entry: dict[str, Any]) -> dict[str, Any]:
    chunks = []
    for recorded in entry["chunks"]:
        k = recorded["ar_idx"]
        chunks.append({
            "ar_idx": k,
            "first_new_frame": 1 + pack.new_frames * k,
            "end_frame_exclusive": 1 + pack.new_frames * (k + 1),
            "video_indices_rule": recorded["video_indices_rule"],
            "video_indices_len": len(timeline(pack, k)),
            "conditioning_frame": pack.new_frames * k,
            "retrieval_targets": {
                views: retrieval_frames(pack, k, int(views))
                for views in recorded["retrieval_targets"]
            },
        })  # fmt: skip
    return {
        "frames_per_latent": FRAMES_PER_LATENT, "start_index": pack.preroll_frames,
        "repeat_pixels": pack.preroll_frames + 1, "chunks": chunks,
    }  # fmt: skip


def _window(pack: FramePack, entry: dict[str, Any]) -> dict[str, Any]:
    window = training_window(
        pack, entry["video_length"], start=entry["start"], segment=entry["segment"],
        start_ratio=entry["starting_frame_ratio"], max_segments=entry["max_segments"],
        self_augmented=entry["self_aug_enabled"],
    )  # fmt: skip
    return {
        **{k: entry[k] for k in (
            "video_length", "self_aug_enabled", "starting_frame_ratio", "max_segments"
        )},
        "start": window.start,
        "segment": window.segment,
        "randint_ranges_when_not_given": {
            "start_[lo,hi)": [window.starts.start, window.starts.stop],
            "segment_[lo,hi)": [window.segments.start, window.segments.stop],
        },
        "chunk_len": len(window.frames) - pack.preroll_frames,
        "window_len": len(window.frames),
        "video_indices_runs": [[k, len(list(g))] for k, g in groupby(window.frames)],
    }  # fmt: skip
