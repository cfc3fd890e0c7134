"""The HTTP door: OpenAI's API, questions sent as a form, status; Ray in one file only."""
