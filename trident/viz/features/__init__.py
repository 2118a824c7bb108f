"""Features that one can look at: components as colours over the slide, and patches that resemble each other."""
