"""`GET /v1/usage`: routes and response."""
