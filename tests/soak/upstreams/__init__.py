"""Soaks the way from the gateway to its upstreams: time-outs, restarts, connections that age."""
