"""Fuzz targets: what takes bytes from outside, fed with any bytes.

A target is a module with two functions::

    check(data)    use data, and raise where the code under test breaks a promise
    seeds()        messages that a sound peer sends, as data for check()

``make fuzz`` runs them under atheris, on a core with coverage (run.py). ``tests/fuzz/corpus`` holds
the seeds as files, ``tests/fuzz/findings`` the inputs that once broke something. test_replay.py
gives each of these files to its target, without atheris.
"""

TARGETS = (
    "codec",
    "queue",
    "hpack",
    "http2",
    "protocol",
    "endpoint",
    "tokens",
    "configuration",
    "web",
    "moved",
)
