"""Compiled core: queue and codec; imports only errors."""
