"""The hello, business and zone services that ``gatesvr serve --demo`` and the tests run."""

from .fleet import services as services
from .fleet import start_demo as start_demo

__all__ = ["services", "start_demo"]
