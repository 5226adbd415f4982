"""The mini world: a procedural renderer of captioned scenes, written in the public formats."""
