"""Options for pytest-benchmark: measure CPU time, which other processes disturb least."""

MEASURE = (
    "--benchmark-enable",
    "--benchmark-quiet",
    "--benchmark-timer=time.process_time",
    "--benchmark-min-time=0.0001",  # for a round; reading the CPU clock takes a microsecond
    "--benchmark-max-time=0.2",
)
