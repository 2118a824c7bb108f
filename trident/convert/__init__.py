"""Slides of any readable format, written as pyramidal TIFF. libvips is loaded only when a file is written."""
