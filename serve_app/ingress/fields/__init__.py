"""Parts of requests and responses that several APIs share, and their mapping to the contracts."""
