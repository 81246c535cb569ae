"""Names and shapes of a published model's tensors, from its sizes alone (spec 2.10).

Written as formulas and not read from the networks, so that either can be wrong only alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

from worldloom.generator.depth.da3.variants import (
    CAMERA_BLOCKS,
    HIDDEN,
    MLP_RATIO,
    PATCH,
    POSE_NUMBERS,
    TABLE_SIDE,
    Da3Config,
    Variant,
)

PREFIX = "model."
"""Before every published name."""
MAIN, METRIC = "da3.", "da3_metric."
"""Before the names of the two networks of a nested model."""
WRAPPERS = ("module.", "_orig_mod.")
"""Put before names by training and compilation."""

Table = dict[str, tuple[int, ...]]


def expected_shapes(variant: Variant) -> Table:
    """Shape of every tensor of a model, under the names of our modules."""
    main = network_shapes(variant.main)
    if variant.metric is None:
        return main
    table = {MAIN + name: shape for name, shape in main.items()}
    return table | {METRIC + n: shape for n, shape in network_shapes(variant.metric).items()}


def network_shapes(config: Da3Config) -> Table:
    """Shape of every tensor of one network."""
    table = _under("backbone.pretrained", _backbone(config)) | _under("head", _head(config))
    if config.multi_view:
        table |= _under("cam_enc", _encoder(config.dim))
        table |= _under("cam_dec", _decoder(2 * config.dim))
    if config.splats:
        table |= _under("gs_head", _gaussians(config))
    return table


def parameters(table: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers in all tensors of a table together."""
    return sum(prod(shape) for shape in table.values())


def own_name(name: str, *, nested: bool) -> str:
    """A published name -> the name of our modules; an unknown name comes back as it is.

    Single models are published as `model.NAME`, nested ones as `model.da3.NAME` and
    `model.da3_metric.NAME`; checkpoints of training may have wrappers in front.
    """
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    name = name.removeprefix(PREFIX)
    if not nested and name.startswith(MAIN):
        return name.removeprefix(MAIN)
    return name


def own_names(names: Collection[str], variant: Variant) -> dict[str, str]:
    """Our name -> published name of every tensor that the model has a use for.

    A single network can be taken out of a nested file: then the other one's tensors are left. All
    other names stay, so that comparing with the table names them.
    """
    out = {}
    single = not variant.nested
    for name in names:
        own = own_name(name, nested=variant.nested)
        if single and own.startswith(METRIC):
            if variant.main.multi_view:
                continue
            own = own.removeprefix(METRIC)
        out[own] = name
    return out


def _under(prefix: str, table: Table) -> Table:
    return {f"{prefix}.{name}": shape for name, shape in table.items()}


def _linear(name: str, inputs: int, outputs: int) -> Table:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _conv(name: str, inputs: int, outputs: int, size: int, *, bias: bool = True) -> Table:
    table: Table = {f"{name}.weight": (outputs, inputs, size, size)}
    return table | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, width: int) -> Table:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(dim: int) -> Table:
    table = _norm("norm1", dim) | _norm("norm2", dim)
    table |= _linear("attn.qkv", dim, 3 * dim) | _linear("attn.proj", dim, dim)
    return table | {"ls1.gamma": (dim,), "ls2.gamma": (dim,)}


def _mlp(dim: int, hidden: int) -> Table:
    return _linear("mlp.fc1", dim, hidden) | _linear("mlp.fc2", hidden, dim)


def _backbone(config: Da3Config) -> Table:
    dim = config.dim
    table: Table = {"cls_token": (1, 1, dim), "pos_embed": (1, TABLE_SIDE**2 + 1, dim)}
    table |= _conv("patch_embed.proj", 3, dim, PATCH) | _norm("norm", dim)
    if config.multi_view:
        table["camera_token"] = (1, 2, dim)
    if config.swiglu:
        feed = _linear("mlp.w12", dim, 2 * config.hidden) | _linear("mlp.w3", config.hidden, dim)
    else:
        feed = _mlp(dim, config.hidden)
    for layer in range(config.layers):
        table |= _under(f"blocks.{layer}", _block(dim) | feed)
        if config.multi_view and layer >= config.start:
            width = dim // config.heads
            for part in ("q_norm", "k_norm"):
                table |= _norm(f"blocks.{layer}.attn.{part}", width)
    return table


def _trunk(config: Da3Config) -> Table:
    channels, features = config.out_channels, config.features
    table: Table = {}
    for level, c in enumerate(channels):
        table |= _conv(f"projects.{level}", config.head_width, c, 1)
        table |= _conv(f"scratch.layer{level + 1}_rn", c, features, 3, bias=False)
    for level, size in ((0, 4), (1, 2), (3, 3)):
        c = channels[level]
        table |= _conv(f"resize_layers.{level}", c, c, size)
    table |= _conv("scratch.output_conv1", features, features // 2, 3)
    return table | _chain(features, "")


def _chain(features: int, suffix: str) -> Table:
    table: Table = {}
    for level in (1, 2, 3, 4):
        block = f"scratch.refinenet{level}{suffix}"
        table |= _conv(f"{block}.out_conv", features, features, 1)
        for unit in (1, 2) if level < 4 else (2,):
            for number in (1, 2):
                conv = f"{block}.resConfUnit{unit}.conv{number}"
                table |= _conv(conv, features, features, 3)
    return table


def _output(name: str, features: int, outputs: int) -> Table:
    return _conv(f"{name}.0", features // 2, HIDDEN, 3) | _conv(f"{name}.2", HIDDEN, outputs, 1)


def _head(config: Da3Config) -> Table:
    features = config.features
    table = _trunk(config)
    if not config.multi_view:
        table |= _output("scratch.output_conv2", features, 1)
        return table | _output("scratch.sky_output_conv2", features, 1)
    table |= _norm("norm", config.head_width) | _output("scratch.output_conv2", features, 2)
    table |= _chain(features, "_aux")
    for level in range(4):
        for number in range(5):
            sizes = (features, features // 2) if number % 2 == 0 else (features // 2, features)
            table |= _conv(f"scratch.output_conv1_aux.{level}.{number}", *sizes, 3)
        last = f"scratch.output_conv2_aux.{level}"
        table |= _conv(f"{last}.0", features // 2, HIDDEN, 3) | _norm(f"{last}.2", HIDDEN)
        table |= _conv(f"{last}.5", HIDDEN, 7, 1)
    return table


def _gaussians(config: Da3Config) -> Table:
    half = config.features // 2
    table = _trunk(config) | _output("scratch.output_conv2", config.features, 38)
    table |= _conv("images_merger.0", 3, half // 4, 3)
    table |= _conv("images_merger.2", half // 4, half // 2, 3)
    return table | _conv("images_merger.4", half // 2, half, 3)


def _encoder(dim: int) -> Table:
    table = _linear("pose_branch.fc1", POSE_NUMBERS, dim // 2)
    table |= _linear("pose_branch.fc2", dim // 2, dim)
    table |= _norm("token_norm", dim) | _norm("trunk_norm", dim)
    for block in range(CAMERA_BLOCKS):
        table |= _under(f"trunk.{block}", _block(dim) | _mlp(dim, MLP_RATIO * dim))
    return table


def _decoder(width: int) -> Table:
    table = _linear("backbone.0", width, width) | _linear("backbone.2", width, width)
    table |= _linear("fc_t", width, 3) | _linear("fc_qvec", width, 4)
    return table | _linear("fc_fov.0", width, 2)
