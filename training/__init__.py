"""The program that draws the demo model's pictures and trains the demo model; not part of the package."""
