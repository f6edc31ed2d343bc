"""Measurements, each a ratio to a yardstick that is taken in the same run."""
