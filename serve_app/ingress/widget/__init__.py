"""`POST /v1/widget/tokens`: routes, request and response."""
