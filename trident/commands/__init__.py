"""Commands of `trident` beside the pipeline itself."""
