"""Files: written whole, sealed and locked; the one place where pixels enter and leave the disk."""
