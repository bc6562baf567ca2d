"""Commented specs to begin with, which ``bnexp init`` writes."""
