"""Depth Anything 3's backbone: against transformers, and its symmetries with random weights."""

import numpy as np
import pytest
import torch

from worldloom.generator.depth.da3 import vit
from worldloom.generator.depth.da3.cameras import pose_vector
from worldloom.generator.depth.da3.load import random_network
from worldloom.generator.depth.da3.reference_view import choose_reference, front_order
from worldloom.generator.depth.da3.rope import Rotation, patch_positions, plain_positions, rotate
from worldloom.generator.depth.da3.variants import NO_START, Da3Config
from worldloom.scene.frame import invert_rigid, rigid


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    return random_network("tiny")


def views(count, size=(28, 42), seed=0):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def cameras(count, size=(28, 42)):
    """Cameras [v 4 4], world to camera, along a bent path, and intrinsics."""
    angle = 0.1 * np.arange(count)
    c, s, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 0 * angle + 1
    rows = ([c, zero, s], [zero, one, zero], [-s, zero, c])
    turn = np.stack([np.stack(row, -1) for row in rows], -2)
    centre = np.stack([0.4 * np.arange(count), 0.1 * angle**2, 0.2 * angle], -1)
    K = np.array([[40.0, 0, size[1] / 2], [0, 44.0, size[0] / 2], [0, 0, 1]])
    return invert_rigid(rigid(turn, centre)), np.tile(K, (count, 1, 1))


def watched(vision):
    """A list that fills with what the layers of the next run give."""
    kept, hooks = [], []

    def keep(block, inputs, output):
        kept.append(output)
        if len(kept) == len(vision.blocks):
            for hook in hooks:
                hook.remove()

    hooks += [block.register_forward_hook(keep) for block in vision.blocks]
    return kept


PLAIN = {"dim": 32, "layers": 3, "heads": 4}


def library(swiglu):
    """DINOv2 of transformers with random weights, and the same weights under our names."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=PLAIN["dim"],
            num_hidden_layers=PLAIN["layers"],
            num_attention_heads=PLAIN["heads"],
            image_size=518,
            patch_size=14,
            mlp_ratio=4,
            use_swiglu_ffn=swiglu,
            layer_norm_eps=1e-6,
        )
    ).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1)
    # The published final norm is built with another epsilon than the blocks.
    model.layernorm.eps = 1e-5
    return model


RENAMED = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj", "layer_scale": "ls",
    "embeddings.position_embeddings": "pos_embed", "embeddings.cls_token": "cls_token",
    "layernorm.": "norm.", "encoder.layer.": "blocks.", "layers.": "blocks.",
    "lambda1": "gamma", "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    "weights_in": "w12", "weights_out": "w3", "down_proj": "w3",
    "attention.attention.": "attention.",
    "attention.query": "attention.q_proj", "attention.key": "attention.k_proj",
    "attention.value": "attention.v_proj",
}  # fmt: skip
"""Names of the library, of its fourth and fifth version, and the published ones."""

FUSED = {
    "attention.q_proj": "attn.qkv", "attention.k_proj": "attn.qkv", "attention.v_proj": "attn.qkv",
    "gate_proj": "w12", "up_proj": "w12",
}  # fmt: skip


def our_names(state):
    """Tensors of the library's DINOv2 under the published names of ours."""
    out, fused = {}, {}
    for name, tensor in state.items():
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        part = next((p for p in FUSED if p in name), None)
        if part is not None:
            fused.setdefault(name.replace(part, FUSED[part]), {})[part] = tensor
        elif "mask_token" not in name:
            out[name] = tensor
    return out | {
        name: torch.cat([parts[part] for part in FUSED if part in parts])
        for name, parts in fused.items()
    }


@pytest.mark.parametrize("swiglu", [False, True])
def test_a_plain_network_is_the_librarys_dinov2(swiglu):
    model = library(swiglu)
    config = Da3Config(**PLAIN, swiglu=swiglu, out_layers=(0, 1, 2, 2), start=NO_START,
                       features=16, out_channels=(16, 16, 16, 16))  # fmt: skip
    ours = vit.VisionTransformer(config).eval()
    ours.load_state_dict(our_names(model.state_dict()), strict=True)
    # 37 x 37 patches: the one size at which both read the position table as it is.
    images = views(1, (518, 518))
    with torch.no_grad():
        found = ours(images, None, lambda _, tokens: tokens)
        asked = model(images, output_hidden_states=True)
    for level, layer in enumerate((1, 2, 3)):
        expected = model.layernorm(asked.hidden_states[layer])
        torch.testing.assert_close(found.levels[level], expected[:, 1:], rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(found.camera, asked.hidden_states[-1][:, 0], rtol=2e-4, atol=2e-4)


def cubic(t):
    """Weights of four neighbours at the fraction t, Keys' kernel with a = -0.75."""
    a = -0.75
    near = lambda x: (a + 2) * x**3 - (a + 3) * x**2 + 1  # noqa: E731
    far = lambda x: a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a  # noqa: E731
    return np.array([far(1 + t), near(t), near(1 - t), far(2 - t)])


def sampling(side):
    """Weights [side 37] by the factor (side + 0.1) / 37, not by side / 37."""
    out = np.zeros((side, 37))
    for place in range(side):
        x = (place + 0.5) * 37 / (side + 0.1) - 0.5
        for tap, weight in enumerate(cubic(x - np.floor(x))):
            out[place, np.clip(int(np.floor(x)) - 1 + tap, 0, 36)] += weight
    return out


def test_positions_are_sampled_by_factors_with_a_tenth_added():
    table = torch.randn(1, 1 + 37 * 37, 5, generator=torch.Generator().manual_seed(0))
    found = vit.position_table(table, (7, 12))
    square = table[0, 1:].reshape(37, 37, 5).double().numpy()
    expected = np.einsum("rp,cq,pqd->rcd", sampling(7), sampling(12), square)
    np.testing.assert_allclose(found[0, 1:].reshape(7, 12, 5), expected, atol=2e-5)
    assert torch.equal(found[:, 0], table[:, 0])
    assert vit.position_table(table, (37, 37)) is table


def test_rotation_turns_half_with_the_row_and_half_with_the_column():
    width, position = 16, torch.tensor([[3, 5]])
    x = torch.randn(1, width, dtype=torch.float64)
    found = rotate(x, Rotation.of(position, width, torch.device("cpu")))
    expected = []
    for half, place in ((x[0, :8], 3), (x[0, 8:], 5)):
        for k in range(4):
            angle = place * 100 ** (-2 * k / 8)
            a, b = half[k], half[k + 4]
            expected.append(
                (a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle))
            )
    order = [e[0] for e in expected[:4]] + [e[1] for e in expected[:4]]
    order += [e[0] for e in expected[4:]] + [e[1] for e in expected[4:]]
    torch.testing.assert_close(found[0], torch.stack(order), rtol=1e-5, atol=1e-6)


def test_positions_of_tokens():
    assert patch_positions((2, 2)).tolist() == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert plain_positions((1, 2)).tolist() == [[0, 0], [1, 1], [1, 1]]


def test_global_layers_do_not_see_where_a_patch_is(network):
    block = network.backbone.pretrained.blocks[3]
    tokens = torch.randn(1, 2 * 7, 64, generator=torch.Generator().manual_seed(4))
    grid = (2, 3)
    rotation = vit._rotations(network.config, grid, 2, tokens.device)[1]
    order = torch.tensor([0, 4, 2, 6, 1, 5, 3, *(7 + i for i in (0, 6, 5, 4, 3, 2, 1))])
    torch.testing.assert_close(
        block(tokens[:, order], rotation), block(tokens, rotation)[:, order], rtol=1e-4, atol=1e-5
    )
    local = vit._rotations(network.config, grid, 2, tokens.device)[0]
    moved = block(tokens[:, :7][:, order[:7]], local) - block(tokens[:, :7], local)[:, order[:7]]
    assert moved.abs().max() > 1e-3


def test_layers_alternate_between_all_views_and_one(network):
    """Changing the second view reaches the first through odd layers from the start on only."""
    vision = network.backbone.pretrained
    images, seen = views(2), []
    changed = images.clone()
    changed[1] += 1
    for pictures in (images, changed):
        kept = watched(vision)
        with torch.no_grad():
            vision(pictures, None, lambda _, tokens: tokens)
        seen.append(kept)
    for layer, (a, b) in enumerate(zip(*seen, strict=True)):
        whole = layer >= vision.config.start and layer % 2 == 1
        assert a.shape[0] == (1 if whole else 2)
        first = [x.reshape(2, -1, 64)[0] for x in (a, b)]
        assert torch.equal(*first) == (layer < 3)


def test_outputs_are_local_beside_current_and_only_the_current_half_is_normed(network):
    vision = network.backbone.pretrained
    kept = watched(vision)
    with torch.no_grad():
        found = vision(views(2), torch.randn(2, 64), lambda _, tokens: tokens)
        layers = [x.reshape(2, -1, 64) for x in kept]
        for level, layer in enumerate(vision.config.out_layers):
            local = layers[layer if layer % 2 == 0 else layer - 1][:, 1:]
            current = vision.norm(layers[layer])[:, 1:]
            torch.testing.assert_close(found.levels[level], torch.cat([local, current], -1))
        last = torch.cat([layers[4], layers[5]], -1)[:, 0]
    torch.testing.assert_close(found.camera, last)


def test_camera_tokens_overwrite_the_cls_slots_before_the_first_alternating_layer(network):
    vision = network.backbone.pretrained
    kept = []
    hook = vision.blocks[vision.config.start].register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0])
    )
    tokens = torch.randn(2, 64)
    with torch.no_grad():
        vision(views(2), tokens, lambda _, t: t)
        vision(views(2), None, lambda _, t: t)
    hook.remove()
    torch.testing.assert_close(kept[0][:, 0], tokens)
    torch.testing.assert_close(kept[1][:, 0], vision.camera_token[0])


def test_views_after_the_first_may_come_in_any_order(network):
    images, (w2c, K) = views(4), cameras(4)
    order = [0, 3, 1, 2]
    plain = network(images, w2c=w2c, K=K, rays=True, splats=True)
    mixed = network(images[order], w2c=w2c[order], K=K[order], rays=True, splats=True)
    pairs = [(plain.depth, mixed.depth), (plain.confidence, mixed.confidence),
             (plain.w2c, mixed.w2c), (plain.rays, mixed.rays),
             (plain.gaussians.raw, mixed.gaussians.raw)]  # fmt: skip
    for a, b in pairs:
        torch.testing.assert_close(a[order], b, rtol=1e-3, atol=1e-4)


def test_one_view_is_a_stack_of_one(network):
    """Without other views a global layer sees what a local one does, apart from places."""
    image = views(1)
    alone = network(image)
    assert alone.depth.shape == (1, 28, 42)
    w2c, K = cameras(1)
    given = network(image, w2c=w2c, K=K)
    assert torch.isfinite(given.depth).all()
    metric = random_network("tiny-metric")
    three = views(3, seed=5)
    each = torch.cat([metric(picture[None]).depth for picture in three])
    torch.testing.assert_close(metric(three).depth, each, rtol=1e-4, atol=1e-5)


def test_a_reference_view_is_chosen_from_three_views_on_and_outputs_keep_their_order(network):
    images = views(4, seed=2)
    found = network.backbone(images)
    assert found.reference == choose_reference(features(network, images))
    assert network.backbone(images[:2]).reference is None
    # Whichever order the views come in, the same one is chosen and each keeps its own output.
    order = [2, 0, 3, 1]
    mixed = network.backbone(images[order])
    assert order[mixed.reference] == found.reference
    torch.testing.assert_close(found.camera[order], mixed.camera, rtol=1e-3, atol=1e-4)


def features(network, images):
    """Cls features before the layer start - 1."""
    vision, kept = network.backbone.pretrained, []
    hook = vision.blocks[0].register_forward_hook(lambda *a: kept.append(a[2]))
    with torch.no_grad():
        vision(images, None, lambda _, t: t)
    hook.remove()
    return kept[0][:, 0]


def test_the_most_middling_view_is_the_reference():
    f = torch.tensor([[1.0, 0, 0, 0.1], [0, 1, 0, 0.3], [0.9, 0.8, 0.1, 0.2], [3, 0, 3, 0]])
    unit = f / f.norm(dim=1, keepdim=True)
    cosine = ((unit @ unit.T).sum(1) - 1) / 3
    scores = []
    for measure in (cosine, f.norm(dim=1), unit.var(1)):
        span = (measure - measure.min()) / (measure.max() - measure.min())
        scores.append((span - 0.5).abs())
    assert choose_reference(f) == int(sum(scores).argmin())
    assert front_order(2, 4).tolist() == [2, 0, 1, 3]


def test_the_camera_encoder_sees_nine_numbers_with_heights_before_widths():
    w2c, K = cameras(3)
    vector = pose_vector(w2c, K, (28, 42))
    c2w = invert_rigid(w2c)
    np.testing.assert_allclose(vector[:, :3], c2w[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(vector[:, 7], 2 * np.arctan(14 / 44), atol=1e-6)
    np.testing.assert_allclose(vector[:, 8], 2 * np.arctan(21 / 40), atol=1e-6)
    assert (vector[:, 6] >= 0).all()


def by_hand(block, x, positions):
    """One alternating layer on one sequence [n d], in float64, from the formulas of spec 2.2."""
    weights = {name: p.detach().double() for name, p in block.named_parameters()}

    def norm(v, name, eps):
        v = (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return v * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(v, name):
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def turned(v):
        """16 channels: 8 with the row and 8 with the column, 4 frequencies each."""
        parts = []
        for half, place in zip(v.split(8, -1), positions.double().T, strict=True):
            angle = place[:, None] * 100.0 ** (-2 * torch.arange(4).double() / 8)
            cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
            parts.append(half * cos + torch.cat([-half[:, 4:], half[:, :4]], -1) * sin)
        return torch.cat(parts, -1)

    fused = linear(norm(x, "norm1", 1e-6), "attn.qkv")
    heads = []
    for head in range(4):
        q, k, v = (fused[:, 64 * part + 16 * head :][:, :16] for part in range(3))
        q, k = turned(norm(q, "attn.q_norm", 1e-5)), turned(norm(k, "attn.k_norm", 1e-5))
        heads.append(torch.softmax(q @ k.T / 4, -1) @ v)
    x = x + weights["ls1.gamma"] * linear(torch.cat(heads, -1), "attn.proj")
    gate, value = linear(norm(x, "norm2", 1e-6), "mlp.w12").chunk(2, -1)
    hidden = gate * torch.sigmoid(gate) * value
    return x + weights["ls2.gamma"] * linear(hidden, "mlp.w3")


@pytest.mark.parametrize("whole", [False, True])
def test_an_alternating_layer_by_the_formulas(network, whole):
    vision, grid = network.backbone.pretrained, (2, 3)
    layer = 3 if whole else 4
    tokens = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(8))
    rotations = vit._rotations(network.config, grid, 2, tokens.device)
    with torch.no_grad():
        found, _ = vision._layer(layer, vision.blocks[layer], tokens, tokens, rotations)
    if whole:
        places = plain_positions(grid).repeat(2, 1)
        expected = by_hand(vision.blocks[layer], tokens.double().reshape(14, 64), places)
    else:
        expected = torch.stack(
            [by_hand(vision.blocks[layer], x, patch_positions(grid)) for x in tokens.double()]
        )
    torch.testing.assert_close(found.double(), expected.reshape(2, 7, 64), rtol=1e-4, atol=1e-5)


def test_tokens_begin_as_patches_beside_a_cls_slot_with_places_added(network):
    vision, images = network.backbone.pretrained, views(2)
    found = vision.embed(images)
    weight, bias = vision.patch_embed.proj.weight, vision.patch_embed.proj.bias
    patch = images[1, :, 14:28, 28:42].reshape(-1)
    place = vit.position_table(vision.pos_embed, (2, 3))
    expected = weight.reshape(64, -1) @ patch + bias + place[0, 1 + 5]
    torch.testing.assert_close(found[1, 1 + 5], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0, 0], vision.cls_token[0, 0] + vision.pos_embed[0, 0])
