"""Devices: the mesh, processes, accelerators, and targets of compilation."""
