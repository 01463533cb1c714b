"""One builder a source: raw records in, rows of a build and a drop ledger out."""
