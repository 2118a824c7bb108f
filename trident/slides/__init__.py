"""Reading whole-slide images: one narrow interface, one module a backend, and the search for slides."""
