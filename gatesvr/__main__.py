"""``python -m gatesvr`` is the ``gatesvr`` command."""

from .cli import main

if __name__ == "__main__":
    main()
