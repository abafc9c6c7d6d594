"""`pair`: a small encoder of queries and the full one of documents, in one folder."""
