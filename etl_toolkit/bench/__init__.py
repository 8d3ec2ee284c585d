"""Measuring: seeded workloads, the ways to load them, and a sweep that writes an immutable run directory.

`sweep.run(SweepConfig(...))` is the entry point; `records.load(directory)` reads what it wrote and opens no database.
"""
