"""`csm-trio bench`: many phone calls at once, paced as people listen, and how they were held."""
