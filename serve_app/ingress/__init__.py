"""The HTTP app: OpenAI's and Anthropic's APIs, /v1/ask, health and metrics; Ray in deployment.py only."""
