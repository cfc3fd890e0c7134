"""WeCom: AI bot by webhook and by long connection, self-built app, group push, simulator and check."""
