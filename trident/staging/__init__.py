"""Local copies of slides that lie on slow storage: which files a slide has, slots for copies, and a prefetcher."""
