"""What a run would do, and what was done: looks at a job and its slides, and writes nothing."""
