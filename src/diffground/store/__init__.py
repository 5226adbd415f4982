"""What is kept: manifests of made folders, and the one store of what is made item by item."""
