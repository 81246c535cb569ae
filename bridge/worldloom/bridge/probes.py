"""What others may ask of a server besides its work: health, and with --debug its inner life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from worldloom.bridge.v1 import bridge_pb2
from worldloom.scene.errors import InvalidRequest

LOGGER = logging.getLogger(__name__)
SERVICE = "worldloom.bridge.v1.Worlds"
LOOK_S = 1.0  # How often the workers are looked at [s].


class Health:
    """The standard health service: is this server of use now?"""

    def __init__(self, server: grpc.aio.Server) -> None:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        self._states = health_pb2.HealthCheckResponse
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def say(self, why: str) -> None:
        """Say that this server is of use, or that it is not because of something."""
        if why:
            LOGGER.error("not serving: %s", why)
        state = self._states.NOT_SERVING if why else self._states.SERVING
        for name in ("", SERVICE):
            await self._servicer.set(name, state)

    async def follow(self, problem: Callable[[], str]) -> None:
        """Say it anew whenever it changes, until cancelled.

        Args:
            problem: Why no job can run; empty when all is well.
        """
        told = None
        while True:
            if (why := problem()) != told:
                await self.say(why)
                told = why
            await asyncio.sleep(LOOK_S)

    async def leave(self) -> None:
        """Say that this server goes away; nothing said later changes that."""
        await self._servicer.enter_graceful_shutdown()


def add_debug_services(server: grpc.aio.Server) -> None:
    """Add reflection and channelz, which tell strangers what a server can do and who is on it.

    Raises:
        InvalidRequest: Their packages are not installed.
    """
    try:
        from grpc_channelz.v1 import channelz
        from grpc_reflection.v1alpha import reflection
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"--debug needs the package {error.name}; pip install 'worldloom[server]'"
        ) from error
    channelz.add_channelz_servicer(server)
    names = [service.full_name for service in bridge_pb2.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection(
        [*names, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz", reflection.SERVICE_NAME],
        server,
    )
