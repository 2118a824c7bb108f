"""The HTML report of a job directory: one file that shows a cohort without any network."""
