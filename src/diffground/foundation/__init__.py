"""Networks and recipes of the mini models: autoencoder, diffusion, CLIP and segmenter."""
