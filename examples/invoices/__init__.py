"""Check a folder of invoices side by side and ask a person to approve the sum: `python -m examples.invoices`."""
