"""From token ids to events: reasoning, text, boxes and tool calls."""
