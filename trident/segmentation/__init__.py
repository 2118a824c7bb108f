"""Tissue segmentation: from a slide to outlines of its tissue."""
