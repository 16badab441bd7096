"""Devices: the mesh, several processes, hardware to compile for."""
