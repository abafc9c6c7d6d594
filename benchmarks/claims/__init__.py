"""What measure_claims.py is made of: variants, rows that are found again, claims, the page."""
