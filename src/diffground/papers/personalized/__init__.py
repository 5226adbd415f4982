"""From Text to Mask's second task (paper 002, §4, §5.3): find *my* mug, filled with cola."""
