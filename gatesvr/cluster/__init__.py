"""Several processes as one gateway: who owns each session, and how sessions move."""
