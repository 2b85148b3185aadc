"""Vendors' programs in virtual environments of their own, and what runs inside of them."""
