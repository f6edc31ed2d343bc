"""How pytest-benchmark measures here: CPU time, for the other processes of a machine cost little."""

MEASURE = (
    "--benchmark-enable",
    "--benchmark-quiet",
    "--benchmark-timer=time.process_time",
    "--benchmark-min-time=0.0001",  # a round; reading that clock takes a microsecond
    "--benchmark-max-time=0.2",
)
