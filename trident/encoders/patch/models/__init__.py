"""Patch encoders whose architecture no library has as it was published: one small module each.

Each has a function `build...(spec, weights_path, **options)`, which gives a network (B, 3, H, W) -> (B, D), and
`build..._network`, the same without weights. All but `declarations` import torch: import them lazily.
"""
