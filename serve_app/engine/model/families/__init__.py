"""One file a model family: how its pictures are encoded, its positions counted, its trunk called."""
