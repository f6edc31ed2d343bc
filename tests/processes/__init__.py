"""A gateway of several processes as its users see it: real processes, QUIC and gRPC."""
