"""Output of the model: token ids to reasoning, text, boxes and tool calls."""
