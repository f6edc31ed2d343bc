"""The ways in for browsers, and for networks that drop UDP."""
