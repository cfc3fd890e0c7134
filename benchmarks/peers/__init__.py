"""The servers that serve_load compares with; each serves the demo weights over OpenAI's chat API."""
