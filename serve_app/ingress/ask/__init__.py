"""`POST /v1/ask`: routes, request and response."""
