"""The demonstration: a synthetic H&E slide that the project draws itself, and a table of what a job made.

`python -m trident.demo draw OUT.svs` and `python -m trident.demo report JOB_DIR`. Imports OpenCV: nothing that the
command line needs at start may import it.
"""

from trident.demo.slide import draw_demo_slide

__all__ = ["draw_demo_slide"]
