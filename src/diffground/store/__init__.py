"""What is kept: manifests of made folders, and the pool that fills them."""
