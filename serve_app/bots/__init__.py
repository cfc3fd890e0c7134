"""Bots of chat platforms: adapters of WeCom, and the conversation that all platforms share."""
