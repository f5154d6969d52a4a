"""Queries written by hand for known pictures, by kind, and how the lenses answer them."""

__all__ = ["kind_figures", "written"]
