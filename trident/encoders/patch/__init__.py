"""Patch encoders: one image patch in, one feature vector out. Light: `factory.encoder_factory` imports torch."""
