"""Feishu and Lark: a bot by encrypted event callbacks."""
