"""Roles for pyinfra: what makes hosts a mesh, over SSH, from the bundle. docs/install.md says how they are used.

They run in an environment of their own (.venv-deploy), and of meshagent import nothing but the lab.
"""
