"""From scores to masks: dense CRF, labels and confidence, mask files. Knows no model."""
