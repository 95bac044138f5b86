"""`csm-trio bench`: load a server with paced calls and report what each call experienced."""
