"""HTTP routes, with their wire schemas beside them."""
