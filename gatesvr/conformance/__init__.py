"""The conformance kit: a scripted gateway plays cases against any client (docs/conformance.md)."""
