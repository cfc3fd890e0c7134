"""GLM Vision Serve: questions about pictures, answered by GLM vision-language models."""

__version__ = "0.1.0"
