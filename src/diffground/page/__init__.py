"""A page to play with: one's own words and images, and any of the four methods, in a browser."""
