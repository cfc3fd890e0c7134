"""Chinese texts of error messages and of the command line, and the language of a caller or a terminal."""
