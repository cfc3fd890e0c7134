"""The page at /, the widget for other sites, and their static files: routes, files and headers."""
