"""Slide encoders: all patch features of a slide in, one embedding out. Light: `factory` imports torch when called."""
