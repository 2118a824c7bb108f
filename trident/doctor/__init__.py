"""Checks of this machine's installation: what works, what does not, and the command that mends it."""
