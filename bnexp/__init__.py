"""bnexp measures what batch norm does. The command line is ``bnexp``; see README.md."""

__version__ = "0.1.0"
