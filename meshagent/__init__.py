"""meshagent: a service mesh for hosts. docs/architecture.md shows the rooms and the way data flows through them."""

__version__ = "0.1.0"
