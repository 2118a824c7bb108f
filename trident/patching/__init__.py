"""Patch grids, the patches on tissue, and their pixels."""
