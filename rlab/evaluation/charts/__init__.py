"""Charts: each is laid out once, as marks in pixels, and written as SVG (in a page or as a file) or PNG."""
