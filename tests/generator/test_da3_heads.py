"""Depth Anything 3's heads: against transformers, against formulas, and eight views at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from worldloom.generator.depth.da3 import cameras as cams
from worldloom.generator.depth.da3.dpt import VIEWS_AT_ONCE, by_views, uv_embedding
from worldloom.generator.depth.da3.load import random_network
from worldloom.generator.depth.da3.metric_head import MetricHead
from worldloom.generator.depth.da3.network import Da3Network
from worldloom.generator.depth.da3.variants import NO_START, TINY, Da3Config
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid, matrix_from_quat_wxyz, rigid


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    return random_network("tiny")


def images(count, size=(28, 42), seed=0):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def projected(head, config, count, grid=(2, 3), seed=1):
    generator = torch.Generator().manual_seed(seed)
    width = config.head_width
    tokens = [torch.randn(count, grid[0] * grid[1], width, generator=generator) for _ in range(4)]
    with torch.no_grad():
        return [head.project(level, x, grid) for level, x in enumerate(tokens)], tokens


def test_the_metric_trunk_is_that_of_the_librarys_depth_anything():
    """Neck and head of transformers' DepthAnything on the same tokens and weights."""
    from transformers import DepthAnythingConfig, Dinov2Config
    from transformers.models.depth_anything import modeling_depth_anything as library

    config = Da3Config(32, 4, 4, False, (0, 1, 2, 3), NO_START, 16, (8, 12, 16, 20))
    backbone = Dinov2Config(hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
                            image_size=56, patch_size=14, out_indices=[1, 2, 3, 4],
                            reshape_hidden_states=False)  # fmt: skip
    sizes = DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=32, patch_size=14,
                                neck_hidden_sizes=[8, 12, 16, 20], fusion_hidden_size=16,
                                head_hidden_size=32)  # fmt: skip
    torch.manual_seed(0)
    neck = library.DepthAnythingNeck(sizes).eval()
    head = library.DepthAnythingDepthEstimationHead(sizes).eval()
    ours = MetricHead(config).eval()
    ours.load_state_dict(library_weights(neck, head, ours), strict=True)
    grid, size = (2, 3), (28, 42)
    maps, tokens = projected(ours, config, 2, grid)
    with torch.no_grad():
        with_cls = [torch.cat([torch.zeros(2, 1, 32), x], 1) for x in tokens]
        fused = neck(with_cls, *grid)
        last = []
        hook = head.conv3.register_forward_hook(lambda *a: last.append(a[2]))
        head(fused, *grid)
        hook.remove()
        found = ours(maps, size)
    torch.testing.assert_close(found.depth, last[0][:, 0].exp(), rtol=1e-4, atol=1e-5)


def library_weights(neck, head, ours):
    """Weights of the library's neck and head under the published names; the sky head stays."""
    out = {n: t for n, t in ours.state_dict().items() if "sky" in n}
    for level, layer in enumerate(neck.reassemble_stage.layers):
        add(out, f"projects.{level}", layer.projection)
        if level != 2:
            add(out, f"resize_layers.{level}", layer.resize)
        add(out, f"scratch.layer{level + 1}_rn", neck.convs[level])
    for number, fusion in enumerate(neck.fusion_stage.layers):
        block = f"scratch.refinenet{4 - number}"
        add(out, f"{block}.out_conv", fusion.projection)
        for unit, part in ((1, fusion.residual_layer1), (2, fusion.residual_layer2)):
            if unit == 1 and number == 0:
                continue
            add(out, f"{block}.resConfUnit{unit}.conv1", part.convolution1)
            add(out, f"{block}.resConfUnit{unit}.conv2", part.convolution2)
    add(out, "scratch.output_conv1", head.conv1)
    add(out, "scratch.output_conv2.0", head.conv2)
    add(out, "scratch.output_conv2.2", head.conv3)
    return out


def add(out, name, module):
    out.update({f"{name}.{part}": tensor for part, tensor in module.state_dict().items()})


def test_position_embedding_by_the_formula():
    x, aspect = torch.zeros(1, 8, 3, 5), 1.5
    found = uv_embedding(x, aspect)[0].numpy()
    diagonal = np.hypot(aspect, 1)
    for row in range(3):
        for column in range(5):
            u = aspect / diagonal * (2 * column - 4) / 5
            v = 1 / diagonal * (2 * row - 2) / 3
            expected = []
            for place in (u, v):
                angles = [place * 100 ** (-k / 2) for k in range(2)]
                expected += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(found[:, row, column], 0.1 * np.array(expected), atol=1e-6)


def test_residual_units_activate_before_their_convolutions(network):
    unit = network.head.scratch.refinenet2.resConfUnit1
    x = torch.randn(1, 16, 4, 4)
    inner = functional.conv2d(x.relu(), unit.conv1.weight, unit.conv1.bias, padding=1).relu()
    expected = x + functional.conv2d(inner, unit.conv2.weight, unit.conv2.bias, padding=1)
    torch.testing.assert_close(unit(x), expected)


def test_depth_and_rays_by_the_formula(network):
    """The last layers of both branches, worked out from the fused maps."""
    head, size, aspect = network.head, (28, 42), 1.5
    maps, tokens = projected(head, TINY, 2)
    normed = functional.layer_norm(tokens[0], (128,), head.norm.weight, head.norm.bias, 1e-5)
    weight, bias = head.projects[0].weight[:, :, 0, 0], head.projects[0].bias
    by_hand = (normed @ weight.T + bias).transpose(1, 2).reshape(2, 16, 2, 3)
    torch.testing.assert_close(maps[0], by_hand, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        found = head(maps, size)
        laterals = head.laterals(maps, aspect)
        main = head.scratch.output_conv1(head.fuse(laterals))
        assert main.shape == (2, 8, 16, 24)
        main = functional.interpolate(main, size, mode="bilinear", align_corners=True)
        values = head.scratch.output_conv2(main + uv_embedding(main, aspect))
        aux = head.scratch.output_conv1_aux[3](head.fuse(laterals, "_aux"))
        first, norm, last = (head.scratch.output_conv2_aux[3][i] for i in (0, 2, 5))
        hidden = first(aux + uv_embedding(aux, aspect)).permute(0, 2, 3, 1)
        hidden = functional.layer_norm(hidden, (32,), norm.weight, norm.bias, 1e-5).relu()
        rays = last(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(found.depth, values[:, 0].exp())
    torch.testing.assert_close(found.confidence, values[:, 1].exp() + 1)
    torch.testing.assert_close(found.rays, rays[..., :6], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.ray_confidence, rays[..., 6].exp() + 1, rtol=1e-4, atol=1e-5)
    assert found.rays.shape == (2, 16, 24, 6)


def test_eight_views_at_a_time_are_all_views_at_once(network):
    count = VIEWS_AT_ONCE + 2
    maps, _ = projected(network.head, TINY, count)
    pictures = images(count)
    with torch.no_grad():
        few, all_ = (network.head(maps, (28, 42), at_once=n) for n in (VIEWS_AT_ONCE, count))
        splats = [network.gs_head(maps, pictures, at_once=n) for n in (3, count)]
    torch.testing.assert_close(few.depth, all_.depth)
    torch.testing.assert_close(few.rays, all_.rays)
    torch.testing.assert_close(splats[0].raw, splats[1].raw)
    sizes = []
    by_views(lambda views: (sizes.append(views), torch.zeros(1))[1:], count)
    assert sizes == [slice(0, 8), slice(8, 16)]


@pytest.mark.parametrize(("ratio", "grid"), [(1, (28, 42)), (2, (14, 21)), (3, (9, 14))])
def test_a_down_ratio_shrinks_the_grid_of_gaussians_and_nothing_before(network, ratio, grid):
    maps, _ = projected(network.gs_head, TINY, 1)
    with torch.no_grad():
        found = network.gs_head(maps, images(1), down_ratio=ratio)
    assert found.raw.shape == (1, *grid, 37)
    assert found.opacity.shape == (1, *grid)
    assert 0 < float(found.opacity.min()) < float(found.opacity.max()) < 1


def test_picture_features_are_pooled_or_the_picture_is_shrunk(network):
    head, picture = network.gs_head, images(1)
    maps, _ = projected(head, TINY, 1)
    with torch.no_grad():
        base = head.scratch.output_conv1(head.fuse(head.laterals(maps, 1.5)))
        base = functional.interpolate(base, (14, 21), mode="bilinear", align_corners=True)
        pooled = functional.adaptive_avg_pool2d(head.images_merger(picture), (14, 21))
        small = functional.interpolate(picture, (14, 21), mode="bilinear", align_corners=True)
        for pool, colours in ((True, pooled), (False, head.images_merger(small))):
            both = base + colours
            values = head.scratch.output_conv2(both + uv_embedding(both, 1.5))
            found = head(maps, picture, pool_features=pool)
            torch.testing.assert_close(found.raw, values[:, :37].permute(0, 2, 3, 1))
            torch.testing.assert_close(found.opacity, values[:, 37].sigmoid())


def test_cameras_survive_encoding_and_decoding():
    rng = np.random.default_rng(3)
    quat = rng.standard_normal((5, 4))
    w2c = invert_rigid(rigid(matrix_from_quat_wxyz(quat), rng.standard_normal((5, 3))))
    K = np.tile([[50.0, 0, 21], [0, 40.0, 14], [0, 0, 1]], (5, 1, 1))
    vector = torch.from_numpy(cams.pose_vector(w2c, K, (28, 42)))
    # Decoded quaternions need no unit length.
    vector[:, 3:7] *= 3
    found, intrinsics = cams.cameras_of(vector, (28, 42))
    np.testing.assert_allclose(found.numpy(), w2c, atol=1e-5)
    np.testing.assert_allclose(intrinsics.numpy(), K, rtol=1e-5)


def test_poses_are_normalised_to_the_first_camera_and_the_median_distance():
    centres = np.array([[1.0, 1, 1], [3, 1, 1], [1, 7, 1], [1, 1, 5]])
    turn = matrix_from_quat_wxyz([0.9, 0.1, 0.3, -0.2])
    w2c = invert_rigid(rigid(np.tile(turn, (4, 1, 1)), centres))
    found = cams.normalise_poses(w2c)
    np.testing.assert_allclose(found[0], np.eye(4), atol=1e-12)
    # Distances 0, 2, 4, 6: the lower of the middle two.
    distances = np.linalg.norm(invert_rigid(found)[:, :3, 3], axis=1)
    np.testing.assert_allclose(distances, [0, 1, 3, 2], atol=1e-12)
    still = cams.normalise_poses(w2c[[0, 0, 0]])
    np.testing.assert_allclose(still, np.tile(np.eye(4), (3, 1, 1)), atol=1e-12)
    near = w2c[[0, 1]].copy()
    near[1, :3, 3] = near[0, :3, 3] + [0.01, 0, 0]
    moved = cams.normalise_poses(near)
    np.testing.assert_allclose(np.linalg.norm(moved[1, :3, 3]), 0.1, rtol=1e-6)
    with pytest.raises(EngineFailed, match="finite"):
        cams.normalise_poses(np.full((2, 4, 4), np.nan))


def test_a_field_of_view_of_zero_stays_finite():
    vector = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 0, 1]])
    _, K = cams.cameras_of(vector, (28, 42))
    assert torch.isfinite(K).all()


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (torch.zeros(0, 3, 28, 28), "at least one view"),
        (torch.zeros(1, 3, 28, 30), "multiples of 14"),
        (torch.full((2, 3, 28, 28), float("nan")), "2 of 2 pictures"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(network, pictures, words):
    with pytest.raises(EngineFailed, match=words):
        network(pictures)


def test_cameras_and_pictures_must_be_as_many(network):
    with pytest.raises(EngineFailed, match="2 pictures are conditioned on 1 cameras"):
        network(images(2), w2c=np.eye(4)[None], K=np.eye(3)[None])
    with pytest.raises(EngineFailed, match="no Gaussian head"):
        Da3Network(Da3Config(64, 2, 4, False, (0, 0, 1, 1), 1, 16, (8, 8, 8, 8)))(
            images(1), splats=True
        )


def test_camera_tokens_and_numbers_by_the_formulas(network):
    """Encoder and decoder in float64; the decoder's fields of view are rectified."""
    vector = torch.randn(3, 9, generator=torch.Generator().manual_seed(2)).double()
    weights = {n: p.detach().double() for n, p in network.named_parameters() if "cam_" in n}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = linear(
        functional.gelu(linear(vector, "cam_enc.pose_branch.fc1")), "cam_enc.pose_branch.fc2"
    )
    x = norm(x, "cam_enc.token_norm")
    for block in (f"cam_enc.trunk.{i}" for i in range(4)):
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(64, -1)
        heads = [
            torch.softmax(a @ b.T / 2, -1) @ c
            for a, b, c in zip(*(part.split(4, -1) for part in (q, k, v)), strict=True)
        ]
        x = x + weights[f"{block}.ls1.gamma"] * linear(torch.cat(heads, -1), f"{block}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + weights[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    with torch.no_grad():
        found = network.cam_enc(vector.float())
        torch.testing.assert_close(
            found.double(), norm(x, "cam_enc.trunk_norm"), rtol=1e-4, atol=1e-5
        )
        feature = torch.randn(3, 128)
        numbers = network.cam_dec(feature)
    x = linear(linear(feature.double(), "cam_dec.backbone.0").relu(), "cam_dec.backbone.2").relu()
    expected = [linear(x, f"cam_dec.{part}") for part in ("fc_t", "fc_qvec", "fc_fov.0")]
    expected[2] = expected[2].relu()
    torch.testing.assert_close(numbers.double(), torch.cat(expected, -1), rtol=1e-4, atol=1e-5)
