"""From Text to Mask (paper 002): images with class names in, pseudo masks and a segmenter out."""
