"""The job directory: where outputs lie, how they are written and read, and who is writing them."""
