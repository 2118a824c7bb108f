"""Pictures of a slide and of what was found on it."""
