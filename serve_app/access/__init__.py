"""Access: who sends a request (API keys, JWT, trusted proxy), and how much a caller may use."""
