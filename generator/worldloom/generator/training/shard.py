"""A network -> the same network with its weights spread over processes (FSDP2, spec 8.5).

Units are the linear layers of the blocks, because the network computes parts of a block (keys and
values of the prompt, squeezed correspondences) outside the block's own call. Embeddings, norms and
the head form the root unit, which stays whole after the forward pass.
"""

from __future__ import annotations

import torch
from torch import nn

from worldloom.generator.training.settings import ShardSettings
from worldloom.scene.errors import InvalidRequest


def shard_network(
    model: nn.Module, settings: ShardSettings, device: torch.device, *, low: bool
) -> nn.Module:
    """Shard float32 weights over groups of processes; reduce gradients in float32.

    Args:
        model: A video transformer.
        settings: Size of the groups.
        device: Of this process.
        low: Whether weights are gathered in bfloat16 for use.

    Raises:
        InvalidRequest: There is no launch of several processes, or groups do not divide it.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        raise InvalidRequest(
            "shard.enabled needs several processes; start with: accelerate launch --multi_gpu "
            "-m worldloom.generator.training.command ..."
        )
    world = dist.get_world_size()
    group = min(settings.group, world)
    if group < 1 or world % group:
        raise InvalidRequest(
            f"shard.group is {settings.group} and does not divide {world} processes",
            field="shard.group",
        )
    shape, names = ((world // group, group), ("replicate", "shard"))
    if world == group:
        shape, names = (world,), ("shard",)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if low else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for block in model.blocks:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return model
