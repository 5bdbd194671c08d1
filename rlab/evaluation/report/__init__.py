"""The report of populations side by side: a page, charts and tables, from plain arrays and texts to text."""
