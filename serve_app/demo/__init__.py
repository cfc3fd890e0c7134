"""The small model that ships with the package, and the program that drew its world and trained it."""
