"""The calls by which commands reach all processes of a gateway."""

from __future__ import annotations

from ..._pb import cluster_pb2, routing_pb2
from ..calls import Call

__all__ = [
    "BULK",
    "DESCRIBE",
    "EVENTS",
    "GREET",
    "KICK_USER",
    "PAGE",
    "REGISTRY",
    "SUBSCRIBE",
    "TABLE",
]

BULK = Call("Bulk", routing_pb2.BulkRequest, routing_pb2.BulkAnswer)
DESCRIBE = Call("Describe", routing_pb2.DescribeRequest, routing_pb2.DescribeAnswer)
PAGE = Call("Page", routing_pb2.PageRequest, routing_pb2.PageAnswer)
KICK_USER = Call("KickUser", routing_pb2.KickUserRequest, routing_pb2.KickUserAnswer)
REGISTRY = Call("Registry", routing_pb2.RegistryRequest, routing_pb2.RegistryAnswer)
TABLE = Call("Table", routing_pb2.EndpointTable, routing_pb2.TableAnswer)
SUBSCRIBE = Call("Subscribe", routing_pb2.EventSubscription, cluster_pb2.Nothing)
EVENTS = Call("Events", routing_pb2.EventBatch, routing_pb2.EventAnswer)
GREET = Call("Greet", routing_pb2.Greeting, routing_pb2.GreetingAnswer)
