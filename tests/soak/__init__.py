"""The soak: real processes through a bad network, and a checker that reads what all of them saw."""
