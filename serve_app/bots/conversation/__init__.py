"""The conversation of all bots: messages, streams of answers, queue, memory, commands and texts."""
