"""`POST /v1/responses`: routes, request and response."""
