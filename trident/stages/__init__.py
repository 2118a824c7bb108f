"""The stages of the pipeline: what each needs and makes, and when it is done."""
