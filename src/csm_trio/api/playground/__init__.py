"""The playground: one page to type text, hear it while it is generated, and see the server."""
