"""A whole mesh on loopback, without root: what `make demo` shows and checks, and what end-to-end tests and benchmarks build on.

`world` starts server, agents and services as processes; `services` are the applications; `traffic` is the oracle that counts failed
requests; `documents/` defines the mesh as an App Mesh user would.
"""
