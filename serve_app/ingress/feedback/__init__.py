"""`POST /v1/feedback`: routes, request and response."""
