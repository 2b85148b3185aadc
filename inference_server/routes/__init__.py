"""HTTP lives here and nowhere else: one thin module a contract."""
