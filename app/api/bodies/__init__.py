"""Request bodies: their kinds, read strictly, and refused with the place and the reason."""
