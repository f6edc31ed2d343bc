"""Authentication at START: who a client is, proved by its auth_token (PROTOCOL 3.10)."""
