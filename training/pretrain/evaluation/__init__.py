"""Figures on human recordings, and the card that shows them."""
