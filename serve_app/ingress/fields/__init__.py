"""What callers may send, checked field by field, and what it means in the contracts."""
