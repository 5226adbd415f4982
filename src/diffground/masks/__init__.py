"""From scores to masks: dense CRF, labels, mask files and losses, phrase masks. Knows no model."""
