"""One package a paper, which know nothing of each other."""
