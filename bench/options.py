"""How pytest-benchmark measures here: CPU time, which other processes disturb least."""

MEASURE = (
    "--benchmark-enable",
    "--benchmark-quiet",
    "--benchmark-timer=time.process_time",
    "--benchmark-min-time=0.0001",  # a round; reading that clock takes a microsecond
    "--benchmark-max-time=0.2",
)
