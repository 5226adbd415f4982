"""One's own images: any of the four methods, asked of one image, a folder or a table of them."""
