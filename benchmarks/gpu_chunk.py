"""Seconds, rates and memory of one whole Lyra 2.0 chunk on a GPU, with random weights.

Builds the full network (14B, bf16) directly on the device, with the full VAE and CLIP tower, and
makes one chunk of 80 frames at 832 x 480: first three forward passes and one pass of the VAE, then
the whole chunk with 35 guided steps, then with the four distilled ones. The rates of a plain matrix
product and of attention are measured in the same run, and each stage is given as a share of them.
PICTURES FROM RANDOM WEIGHTS MEAN NOTHING: only times and memory are results.
Run: python benchmarks/gpu_chunk.py [--out FOLDER] [--limit-s N] [--device cpu --tiny]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gpu_report import WARNING, Report, Stage
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel

from worldloom.generator.video.lyra import clip as clip_module
from worldloom.generator.video.lyra import clip_keys, conditioning, loop, vae_keys
from worldloom.generator.video.lyra import vae as vae_module
from worldloom.generator.video.lyra.config import LYRA_14B, LYRA_TINY, TEXT_TOKENS, DiTConfig
from worldloom.generator.video.lyra.dit import Prepared, VideoTransformer
from worldloom.generator.video.lyra.layers import FASTEST
from worldloom.generator.video.lyra.memory_parts import (
    CLIP_TOKENS,
    RELEASED,
    Chunk,
    dit_parameters,
)

FORWARDS = 3  # Passes that are timed before the whole chunk; the first one warms up.
STD = 0.02  # Of the random weights of VAE and CLIP: activations neither vanish nor overflow.


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    dit: DiTConfig
    vae: vae_keys.VAEConfig
    clip: clip_keys.CLIPConfig
    size: tuple[int, int]
    steps: int
    group: int
    """Latents that the VAE takes at a time."""


FULL = Scale(LYRA_14B, vae_keys.VAEConfig(), clip_keys.CLIPConfig(), (832, 480), 35, 4)
TINY = Scale(
    replace(LYRA_TINY, framepack_type="f1k1f2s2f1s1f2k2f1k1_g2", buffer_in_dim=768),
    vae_keys.VAEConfig(dim=4), clip_keys.CLIPConfig(dim=32, heads=2, layers=3), (32, 32), 2, 4,
)  # fmt: skip


class Bench:
    """A device, its networks and the report."""

    def __init__(self, device: str, scale: Scale, out: Path | None) -> None:
        self.device, self.scale, self.out = torch.device(device), scale, out
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.chunk = Chunk(replace(RELEASED, dit=scale.dit, vae=scale.vae), scale.size)
        name = torch.cuda.get_device_name() if self.cuda else "CPU"
        self.report = Report(
            name, torch.__version__, scale.size, self.chunk.tokens, dit_parameters(scale.dit)
        )

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA one."""
        return self.device.type == "cuda"

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def stage(self, name: str, work: tuple[float, float] = (0, 0)) -> Iterator[None]:
        """Time a block; `work` is its FLOP in products and convolutions, and in attention."""
        self.sync()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        yield
        self.sync()
        self.add(name, time.perf_counter() - start, work)

    def add(self, name: str, seconds: float, work: tuple[float, float] = (0, 0)) -> None:
        """Add a stage, print it and write the report."""
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None
        found = Stage(name, seconds, peak)
        if sum(work):
            found.tflop = sum(work) / 1e12
            ideal = work[0] / self.report.matmul_tflops + work[1] / self.report.attention_tflops
            found.share = ideal / 1e12 / seconds
        self.report.stages.append(found)
        self.report.write(self.out)
        print(f"{name}: {seconds:.3f} s", flush=True)

    def random(self, *shape: int, std: float = 1.0) -> Tensor:
        """Normal numbers on the device."""
        return torch.randn(shape, device=self.device, dtype=self.dtype) * std

    # ---- rates of the card ----------------------------------------------------------------------

    def measure_rates(self) -> None:
        """Matrix product and attention at the network's own sizes."""
        config, tokens = self.scale.dit, self.chunk.tokens
        a, b = self.random(tokens, config.dim), self.random(config.dim, config.ffn_dim)
        flop = 2 * tokens * config.dim * config.ffn_dim
        self.report.matmul_tflops = flop / self._best(lambda: a @ b) / 1e12
        q = self.random(1, config.num_heads, tokens, config.head_dim)
        flop = 4 * tokens**2 * config.dim
        # The kernels that the network prefers, so that its share is of the same rate.
        with sdpa_kernel(list(FASTEST), set_priority=True):
            best = self._best(lambda: F.scaled_dot_product_attention(q, q, q))
        self.report.attention_tflops = flop / best / 1e12

    def _best(self, call, runs: int = 5) -> float:
        times = []
        for _ in range(runs + 1):
            self.sync()
            start = time.perf_counter()
            call()
            self.sync()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    # ---- networks -------------------------------------------------------------------------------

    def build(self) -> loop.Networks:
        """All networks with random weights, made on the device."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                dit = VideoTransformer(self.scale.dit).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(before)
        vae = vae_module.VideoVAE.load(
            vars(self.scale.vae), self._weights(vae_module.published_shapes(self.scale.vae))
        )
        clip = clip_module.ClipVision.load(
            vars(self.scale.clip), self._weights(clip_keys.published_shapes(self.scale.clip))
        )
        return loop.Networks(dit, vae.requires_grad_(False), clip.requires_grad_(False))

    def _weights(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {name: self.random(*shape, std=STD) for name, shape in shapes.items()}

    # ---- FLOP -----------------------------------------------------------------------------------

    def forward_work(self) -> tuple[float, float]:
        """FLOP of one forward pass: linear layers, and attention (spec generation 11.2)."""
        c, tokens = self.scale.dit, self.chunk.tokens
        inner = 6 * c.dim**2 + 2 * c.dim * c.ffn_dim
        inner += (c.camera_width + c.buffer_mlp_squeeze_dim) * c.dim
        cross = 4 * tokens * (TEXT_TOKENS + CLIP_TOKENS) * c.dim
        linear = c.num_layers * 2 * tokens * inner
        return float(linear), float(c.num_layers * (4 * tokens**2 * c.dim + cross))

    def vae_work(self, networks: loop.Networks) -> tuple[float, float]:
        """FLOP of encoding and of decoding one latent: counted at a small size, by pixels."""
        from torch.utils.flop_counter import FlopCounterMode

        small, vae = 64, networks.vae
        found = []
        for latents in (1, 2):
            frames = 1 + (latents - 1) * self.scale.vae.frames_per_latent
            for call, shape in (
                (vae.encode_stream, (1, 3, frames, small, small)),
                (vae.decode_stream, (1, self.scale.vae.z_dim, latents, small // 8, small // 8)),
            ):
                with FlopCounterMode(display=False) as counter:
                    call(self.random(*shape), None)
                found.append(counter.get_total_flops() * self.chunk.pixels / small**2)
        return found[2] - found[0], found[3] - found[1]


def state_and_cameras(
    bench: Bench, networks: loop.Networks
) -> tuple[loop.LyraState, NDArray[np.float64], NDArray[np.float64]]:
    """A run before its first chunk with a full memory, and the cameras of the chunk."""
    width, height = bench.scale.size
    rows = np.linspace(2.0, 6.0, height, dtype=np.float32)[:, None]
    depth = np.repeat(rows, width, 1)
    K = np.array([[0.72 * width, 0, width / 2], [0, 0.72 * width, height / 2], [0, 0, 1]])
    image = bench.random(1, 3, height, width).clamp(-1, 1)
    state = loop.begin(networks, bench.options, image, depth, np.eye(4), K)
    memory, pixels = state.memory, image[0].float().cpu().numpy()
    for slot in range(1, networks.layout.spatial + 1):
        moved = np.eye(4)
        moved[0, 3] = 0.05 * slot
        memory = memory.remember(-slot, depth, moved, K, pixels=pixels)
    count = networks.layout.new_frames
    cameras = np.tile(np.eye(4), (count, 1, 1))
    cameras[:, 2, 3] = -0.01 * np.arange(1, count + 1)
    return replace(state, memory=memory), cameras, np.tile(K, (count, 1, 1))


@torch.no_grad()
def run(bench: Bench, *, limit_s: float | None) -> Report:
    """All stages, the cheap ones first."""
    bench.measure_rates()
    with bench.stage("build with random weights"):
        networks = bench.build()
    encode, decode = bench.vae_work(networks)
    layout, scale = networks.layout, bench.scale
    bench.options = loop.LyraOptions(steps=scale.steps, vae_group=scale.group)
    latents = layout.history
    with bench.stage("begin: encode and decode the pre-roll", ((encode + decode) * latents, 0)):
        state, w2c, K = state_and_cameras(bench, networks)
    slots = [-s for s in range(layout.spatial, 0, -1)]
    with bench.stage(
        "conditioning: warps and matches (CPU), VAE encoding", (encode * (layout.new + 1), 0)
    ):
        made = conditioning.condition(
            layout, networks.vae, state.past(), state.shot(w2c, K), 0, retrieved=slots,
            group=scale.group,
        )  # fmt: skip
    with bench.stage("CLIP"):
        image = networks.clip(state.pixels[state.last].to(made.history))
    text = bench.random(1, TEXT_TOKENS, scale.dit.text_dim)
    prepared = _forwards(bench, networks, made, image, text)
    del prepared
    frames = _vae_pass(bench, networks, state, (encode, decode))
    del frames
    one = min(s.seconds for s in bench.report.stages if s.name.startswith("forward"))
    for name, options, passes in (
        (f"{scale.steps} guided steps", bench.options, 2 * scale.steps),
        ("4 distilled steps", replace(bench.options, distilled=True), 4),
    ):
        if limit_s is not None and passes * one > limit_s:
            bench.report.notes.append(
                f"{name}: left out; {passes} passes of {one:.2f} s exceed --limit-s {limit_s:g}"
            )
            continue
        _whole_chunk(bench, networks, options, name, passes, state, (w2c, K), text, slots,
                     (encode, decode))  # fmt: skip
    bench.report.write(bench.out)
    return bench.report


def _forwards(bench: Bench, networks: loop.Networks, made, image: Tensor, text: Tensor) -> Prepared:
    dit = networks.dit
    with bench.stage("prepare: all that no step changes"):
        scene = dit.scene(made.history, y=made.y, clip=image, buffer=made.buffer)
        prepared = Prepared(scene, dit.context(text))
    shape = (1, made.history.shape[1], dit.layout.new, *made.history.shape[3:])
    x, t = bench.random(*shape).float(), torch.full((1, 1), 500.0, device=bench.device)
    for number in range(FORWARDS):
        with bench.stage(f"forward {number + 1} of {FORWARDS}", bench.forward_work()):
            v = dit.velocity(x, t, prepared)
    if not torch.isfinite(v).all():
        bench.report.notes.append("the velocity holds numbers that are not finite")
    return prepared


def _vae_pass(bench: Bench, networks: loop.Networks, state, work: tuple[float, float]) -> Tensor:
    """Decode and encode again the latents of one chunk."""
    layout, group = networks.layout, bench.scale.group
    latents = state.latents[0][:, :, -layout.new :]
    with bench.stage("VAE: decode a chunk", (work[1] * layout.new, 0)):
        frames, _ = networks.vae.decode_stream(latents, state.decoder, group=group)
    with bench.stage("VAE: encode it again", (work[0] * layout.new, 0)):
        networks.vae.encode_stream(frames, state.encoder, group=group)
    return frames


def _whole_chunk(bench, networks, options, name, passes, state, cameras, text, slots, work) -> None:
    """One chunk from conditioning to the latents of the next, sampling timed by itself too."""
    layout, group = networks.layout, bench.scale.group
    ends: list[float] = []

    def tick(done: int, total: int) -> None:
        bench.sync()
        ends.append(time.perf_counter())
        print(f"  {name}: pass {done} of {total}", end="\r", file=sys.stderr, flush=True)

    linear, attention = bench.forward_work()
    vae = (2 * layout.new + 1) * work[0] + layout.new * work[1]
    with bench.stage(f"whole chunk, {name}", (passes * linear + vae, passes * attention)):
        made = conditioning.condition(
            layout, networks.vae, state.past(), state.shot(*cameras), 0, retrieved=slots,
            group=group,
        )  # fmt: skip
        image = networks.clip(state.pixels[state.last].to(made.history))
        prompts = loop.Prompts(text, text)
        hooks = loop.Hooks(on_evaluation=tick)
        sampled = loop.sample(networks, options, made, image, prompts, 0, hooks)
        frames, _ = networks.vae.decode_stream(sampled.to(made.history), state.decoder, group=group)
        networks.vae.encode_stream(frames, state.encoder, group=group)
    if len(ends) > 1:
        each = (ends[-1] - ends[0]) / (len(ends) - 1)
        bench.add(f"  its passes, mean of {len(ends)}", each, (linear, attention))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; 2 where there is no device for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to test this script")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the report there")
    parser.add_argument("--limit-s", type=float, metavar="N", help="leave out longer samplings")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device; this needs one with 80 GB. To try the script: --device cpu --tiny",
              file=sys.stderr)  # fmt: skip
        return 2
    if not args.tiny and not args.device.startswith("cuda"):
        print("the full network needs a CUDA device; add --tiny", file=sys.stderr)
        return 2
    print(WARNING, flush=True)
    bench = Bench(args.device, TINY if args.tiny else FULL, args.out)
    print(run(bench, limit_s=args.limit_s).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
