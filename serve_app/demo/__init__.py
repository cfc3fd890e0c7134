"""The small model that ships with the package; training/ in the repository trained it."""

DESCRIPTION = (
    "A demo model of 16 million parameters, not a GLM release: it answers only the questions listed in the README,"
    " about pictures like those in benchmarks/evaluation. Answers to other questions are wrong, and JSON schemas of"
    " your own get invented values."
)
