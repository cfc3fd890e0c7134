"""`POST /tokenize`: routes and request."""
