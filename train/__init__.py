"""Procedures: what has a clock, a process group and a checkpoint."""
