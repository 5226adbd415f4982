"""Files: written whole, sealed and locked; the one place where pixels enter and leave the disk."""

from diffground.io.images import image_size, read_image, write_png
from diffground.io.panoptic import encode_panoptic, read_panoptic, segment_masks

__all__ = [
    "encode_panoptic",
    "image_size",
    "read_image",
    "read_panoptic",
    "segment_masks",
    "write_png",
]
