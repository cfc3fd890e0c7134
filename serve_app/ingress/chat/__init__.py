"""`POST /v1/chat/completions`: routes, request and response."""
