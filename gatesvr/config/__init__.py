"""The whole configuration: one struct a layer, checked when it is made, then frozen.

Sources, later ones win: the defaults, a TOML file, environment variables
(``GATESVR_DISPATCH__WORKERS=8``), ``--set dispatch.workers=8``, the flags of ``gatesvr serve``.
Durations are seconds as a number or text such as ``500ms``, ``1s``, ``2m``, ``1h``; sizes are bytes
as a number or text such as ``64KiB``, ``4MiB``. A Config that is built in Python is converted and
checked in the same way.
"""

from .kinds import Duration as Duration
from .kinds import Range as Range
from .kinds import Size as Size
from .kinds import check_numbers as check_numbers
from .kinds import join_address as join_address
from .kinds import normalize_zone as normalize_zone
from .kinds import parse_address as parse_address
from .load import fields as fields
from .load import load as load
from .load import needs_restart as needs_restart
from .ports import AdminConfig as AdminConfig
from .ports import PushCaller as PushCaller
from .ports import PushConfig as PushConfig
from .sections import MAX_CLAIMS as MAX_CLAIMS
from .sections import AuthConfig as AuthConfig
from .sections import Config as Config
from .sections import DispatchConfig as DispatchConfig
from .sections import DrainConfig as DrainConfig
from .sections import LogConfig as LogConfig
from .sections import MetricsConfig as MetricsConfig
from .sections import OverloadConfig as OverloadConfig
from .sections import RouteRule as RouteRule
from .sections import SessionConfig as SessionConfig
from .sections import TraceConfig as TraceConfig
from .sections import TransportConfig as TransportConfig
from .sections import WebConfig as WebConfig
from .upstream import ZONED_NAME as ZONED_NAME
from .upstream import Endpoint as Endpoint
from .upstream import UpstreamConfig as UpstreamConfig
from .upstream import UpstreamTls as UpstreamTls
from .workers import WorkersConfig as WorkersConfig

__all__ = [
    "AdminConfig",
    "AuthConfig",
    "Config",
    "DispatchConfig",
    "DrainConfig",
    "Duration",
    "Endpoint",
    "LogConfig",
    "MetricsConfig",
    "OverloadConfig",
    "PushCaller",
    "PushConfig",
    "Range",
    "RouteRule",
    "SessionConfig",
    "Size",
    "TraceConfig",
    "TransportConfig",
    "UpstreamConfig",
    "UpstreamTls",
    "WebConfig",
    "WorkersConfig",
    "check_numbers",
    "fields",
    "join_address",
    "load",
    "needs_restart",
    "normalize_zone",
    "parse_address",
]
