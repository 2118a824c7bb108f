"""Patch and slide encoders: declarations, the few odd architectures, and where their weights come from."""
