"""The commands of a gateway of several processes: each reaches the owner of its session."""
