"""The HTTP door: OpenAI's chat, questions sent as a form, status; Ray in one file only."""
