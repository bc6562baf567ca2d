"""Data that travel with the package, each with its licence beside it."""
