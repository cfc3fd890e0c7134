"""The small model that ships with the package; training/ in the repository trained it."""
