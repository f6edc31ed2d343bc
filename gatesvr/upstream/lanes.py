"""The kinds of lanes, and the choice of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..grpcio import upstream_options
from .direct_lane import DirectLane
from .grpcio_lane import GrpcioLane

if TYPE_CHECKING:
    from ..config import UpstreamConfig
    from .lane import Lane
    from .target import Target

__all__ = ["LANES", "is_other_lane", "new_lane"]

LANES: dict[str, type[Lane]] = {"direct": DirectLane, "grpcio": GrpcioLane}
"""By ``upstream.lane``."""


def new_lane(target: Target | str, config: UpstreamConfig, *args: Any, **more: Any) -> Lane:
    """Return a lane of the kind that the configuration names; the arguments are Lane's."""
    return LANES[config.lane](target, config, *args, **more)


def is_other_lane(before: UpstreamConfig, config: UpstreamConfig, max_message_bytes: int) -> bool:
    """Return whether a lane cannot take a configuration, so that another one has to be made."""
    if before.lane != config.lane:
        return True
    return config.lane == "grpcio" and (
        upstream_options(before, max_message_bytes) != upstream_options(config, max_message_bytes)
    )
