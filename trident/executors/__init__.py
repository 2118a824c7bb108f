"""Long-lived processes that run stages: one a device, each with its models loaded once."""
