"""What weights there are, where they come from and under which terms they may be used."""

from __future__ import annotations

from dataclasses import dataclass

from worldloom.generator.depth.model import WeightsRecord


@dataclass(frozen=True)
class Weights:
    """One entry of the catalogue."""

    name: str
    title: str
    url: str
    """Where its authors publish it."""
    sha256: str
    """Hash of the published file; empty where a network is compared tensor by tensor."""
    bytes: int
    """Size of the published file, or of its tensors; 0 where it is not stated."""
    licence: str
    research_only: bool
    source: str
    """The page that a person reads about it."""
    note: str
    """What else a user has to know about the terms."""
    converted_sha256: str = ""
    """Hash of the safetensors file that `convert` makes of it, where that is known beforehand."""
    kind: str = ""
    """How a network is converted (`video.lyra.convert`); empty for small pinned files."""

    @property
    def file_name(self) -> str:
        """Name of the safetensors file in the weights folder."""
        return self.name.replace("-", "_") + ".safetensors"

    @property
    def size(self) -> str:
        """Size for people."""
        return f"{self.bytes / 1e6:.1f} MB" if self.bytes else "not stated"

    def record(self, sha256: str = "") -> WeightsRecord:
        """What a manifest says about these weights; `sha256` is that of the converted file."""
        digest = sha256 or self.converted_sha256
        return WeightsRecord(self.name, digest, self.licence, self.research_only)


LYRA_PAGE = "https://huggingface.co/nvidia/Lyra-2.0"
LYRA_LICENCE = "NVIDIA internal scientific research and development model licence"
LYRA_NOTE = "internal scientific research only, whatever is made with them included"
WAN_PAGE = "https://huggingface.co/Wan-AI/Wan2.1-I2V-14B-480P"
WAN_NOTE = "(c) the Wan team, Alibaba"


def _lyra(name: str, title: str, kind: str, place: str, size: int) -> Weights:
    """A part of the Lyra 2.0 release; sizes are computed from its tensors."""
    return Weights(
        name, title, f"{LYRA_PAGE}/tree/main/checkpoints/{place}", "", size, LYRA_LICENCE, True,
        LYRA_PAGE, LYRA_NOTE, kind=kind,
    )  # fmt: skip


def _wan(name: str, title: str, kind: str, place: str, size: int) -> Weights:
    """A part that comes from Wan 2.1."""
    return Weights(
        name, title, f"{WAN_PAGE}/blob/main/{place}", "", size, "Apache-2.0", False, WAN_PAGE,
        WAN_NOTE, kind=kind,
    )  # fmt: skip


HUB = "https://huggingface.co/depth-anything"
DA3_NOTE = "(c) 2025 ByteDance Ltd. and/or its affiliates"


def _da3(name: str, title: str, page: str, size: int, *, free: bool) -> Weights:
    """A Depth Anything 3 model; sizes are those of its tensors in float32."""
    licence = "Apache-2.0" if free else "CC BY-NC 4.0"
    note = DA3_NOTE if free else f"{DA3_NOTE}; no commercial use"
    return Weights(
        name, title, f"{HUB}/{page}/blob/main/model.safetensors", "", size, licence, not free,
        f"{HUB}/{page}", note, kind=name,
    )  # fmt: skip


CATALOGUE = (
    Weights(
        name="tcmonodepth-small",
        title="TCMonoDepth small, relative depth from one view",
        url="https://raw.githubusercontent.com/yu-li/TCMonoDepth/main/weights/_ckpt_small.pt.tar",
        sha256="c7a87f34a432d11b831d9d27c531eaaef90e0282e2f8a7b87c0202b80ad76b2b",
        bytes=914_272,
        licence="MIT",
        research_only=False,
        source="https://github.com/yu-li/TCMonoDepth",
        note="(c) 2021 Yu Li; the terms of its training data are not stated there",
        converted_sha256="5050c53b770d447da65ddacb8d338ab912f14cb1093b82170183fac8bd0a0b08",
    ),
    _lyra("lyra2-video", "Lyra 2.0 video network, 17.03 billion parameters", "video", "model",
          34_059_742_848),
    _lyra("lyra2-distilled", "Lyra 2.0 adapter for four steps", "lora",
          "lora/dmd_distillation.safetensors", 0),
    _lyra("lyra2-realism", "Lyra 2.0 adapter for realism", "lora",
          "lora/realism_boost.safetensors", 0),
    _lyra("lyra2-detail", "Lyra 2.0 adapter for detail", "lora",
          "lora/detail_enhancer.safetensors", 0),
    _lyra("lyra2-negative-prompt", "embedding of what a video shall not be", "negative",
          "text_encoder/negative_prompt.pt", 4_194_304),
    _wan("wan21-i2v-14b", "Wan 2.1 image to video, where training starts", "wan",
         "diffusion_pytorch_model.safetensors.index.json", 65_579_515_136),
    _wan("wan21-vae", "Wan 2.1 video VAE", "vae", "Wan2.1_VAE.pth", 507_570_124),
    Weights(
        "umt5-xxl", "UMT5-XXL text encoder",
        f"{WAN_PAGE}/blob/main/models_t5_umt5-xxl-enc-bf16.pth", "", 11_361_820_672, "Apache-2.0",
        False, "https://huggingface.co/google/umt5-xxl", "(c) Google", kind="text",
    ),
    Weights(
        "clip-vit-h14", "CLIP ViT-H/14 vision tower",
        f"{WAN_PAGE}/blob/main/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "",
        2_523_064_320, "MIT", False, "https://github.com/mlfoundations/open_clip",
        "(c) the OpenCLIP authors; the published file also holds a text tower, not used here",
        kind="clip",
    ),
    _da3("da3-small", "Depth Anything 3 small, depth and cameras of views", "DA3-SMALL",
         137_198_620, free=True),
    _da3("da3-base", "Depth Anything 3 base, depth and cameras of views", "DA3-BASE",
         541_467_164, free=True),
    _da3("da3-metric-large", "Depth Anything 3 metric, depth in metres and sky", "DA3METRIC-LARGE",
         1_336_685_576, free=True),
    _da3("da3-giant", "Depth Anything 3 giant, depth, cameras and splats of views",
         "DA3-GIANT-1.1", 5_422_697_268, free=False),
    _da3("da3-nested", "Depth Anything 3 giant with metres from a second network",
         "DA3NESTED-GIANT-LARGE-1.1", 6_759_382_844, free=False),
    _lyra("lyra2-recon", "Depth Anything 3 nested, its splats tuned for Lyra 2.0", "da3-nested",
          "recon/model.pt", 0),
)  # fmt: skip
"""All weights that this version can use."""
