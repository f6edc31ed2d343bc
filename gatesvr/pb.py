"""The protobuf messages and gRPC stubs of the wire protocol, for clients and upstreams.

Take them from here instead of generating a copy: two copies of one schema in a process collide in
protobuf's descriptor pool ("duplicate symbol gatesvr.proto...").
"""

from ._pb.auth_pb2 import *  # noqa: F403
from ._pb.auth_pb2_grpc import (
    AuthServiceServicer as AuthServiceServicer,
)
from ._pb.auth_pb2_grpc import (
    AuthServiceStub as AuthServiceStub,
)
from ._pb.auth_pb2_grpc import (
    add_AuthServiceServicer_to_server as add_AuthServiceServicer_to_server,
)
from ._pb.message_pb2 import *  # noqa: F403
from ._pb.upstream_pb2 import *  # noqa: F403
from ._pb.upstream_pb2_grpc import (
    GatewayServiceServicer as GatewayServiceServicer,
)
from ._pb.upstream_pb2_grpc import (
    GatewayServiceStub as GatewayServiceStub,
)
from ._pb.upstream_pb2_grpc import (
    UpstreamServiceServicer as UpstreamServiceServicer,
)
from ._pb.upstream_pb2_grpc import (
    UpstreamServiceStub as UpstreamServiceStub,
)
from ._pb.upstream_pb2_grpc import (
    add_GatewayServiceServicer_to_server as add_GatewayServiceServicer_to_server,
)
from ._pb.upstream_pb2_grpc import (
    add_UpstreamServiceServicer_to_server as add_UpstreamServiceServicer_to_server,
)
