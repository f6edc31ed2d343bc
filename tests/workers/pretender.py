"""Pretends to be a worker, by the standard library alone: it starts in a fraction of the time.

Its last argument is the descriptor of its channel; those before it say how it behaves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

how, place, descriptor = sys.argv[1:4]
channel = socket.socket(fileno=int(descriptor))
lines = channel.makefile("rb")
line = lines.readline()
if not line:
    sys.exit(1)
assignment = json.loads(line)
number = assignment["number"]


def say(kind: str, **values: object) -> None:
    channel.sendall(json.dumps({"type": kind, **values}).encode() + b"\n")


def is_first() -> bool:
    """Return whether this is the first worker of its slot."""
    return bool(number < assignment["slots"])


if how == "crash" or (how == "crash-later" and not is_first()):
    os.kill(os.getpid(), signal.SIGKILL)
if how == "fail" or (how == "fail-later" and not is_first()):
    say("Failed", why="transport.cert: it is none", is_config=True)
    sys.exit(1)
if how == "hang" and number == 1:
    time.sleep(600)
if how == "babble":
    channel.sendall(b"hello\n")
    time.sleep(600)
with open(os.path.join(place, f"{number}.pid"), "w", encoding="utf-8") as file:
    file.write(str(os.getpid()))
say("Ready", version="1", udp="127.0.0.1:1", web="", grpc="127.0.0.1:2", summary={"of": number})
if how == "die":
    sys.exit(3)
for line in lines:  # until the supervisor has gone
    order = json.loads(line)
    if order["type"] == "Cover":
        names = [name for slot in order["slots"] for name in assignment["others"][str(slot)]]
        covers = os.path.join(place, f"{number}.covers")
        with open(covers + ".new", "w", encoding="utf-8") as file:
            json.dump([order["slots"], names], file)
        os.replace(covers + ".new", covers)
    elif order["type"] != "Go":
        sys.exit()
with open(os.path.join(place, f"{number}.left"), "w", encoding="utf-8"):
    pass
