"""`POST /v1/completions`: routes, request and response."""
