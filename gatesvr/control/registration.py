"""RegistrationCommands: upstreams register, keep their lease and leave (PROTOCOL 7.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._pb import upstream_pb2 as pb

if TYPE_CHECKING:
    from ..service.results import RegistryResult
    from ..upstream.registry import UpstreamRegistry

__all__ = ["RegistrationCommands"]


class RegistrationCommands:
    """Adds and removes endpoints; takes and returns the messages of the rpcs.

    Args:
        registry: Holds the endpoints and counts what happens to them.
    """

    def __init__(self, registry: UpstreamRegistry) -> None:
        self._registry = registry

    def register(
        self, request: pb.UpstreamRegisterRequest, caller_ip: str, owner: str = ""
    ) -> pb.UpstreamRegisterResponse:
        """Add an endpoint of a service.

        Args:
            request: The endpoint.
            caller_ip: The caller's address; the rules for hosts and replacements refer to it.
            owner: The caller's name; empty where callers prove nothing.
        """
        return _response(
            self._registry.register(
                request.address,
                request.zone_id,
                request.service_name,
                request.lease_seconds,
                request.weight,
                caller_ip,
                owner,
            )
        )

    def keep_alive(self, request: pb.LeaseRequest) -> pb.UpstreamRegisterResponse:
        """Restart an endpoint's lease."""
        return _response(self._registry.keep_alive(request.lease_id))

    def deregister(self, request: pb.LeaseRequest) -> pb.UpstreamRegisterResponse:
        """Remove an endpoint."""
        return _response(self._registry.deregister(request.lease_id))


def _response(result: RegistryResult) -> pb.UpstreamRegisterResponse:
    return pb.UpstreamRegisterResponse(
        success=result.success,
        message=result.message,
        error_code=result.error_code,
        lease_id=result.lease_id,
    )
