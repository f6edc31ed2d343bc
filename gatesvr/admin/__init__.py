"""The admin server: HTTP for people on call, their console and their commands."""
