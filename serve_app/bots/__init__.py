"""Bots of chat platforms: adapters of WeCom, DingTalk and Feishu, and the conversation that they share."""
