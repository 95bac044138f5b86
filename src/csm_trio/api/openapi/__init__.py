"""The server's description of itself: OpenAPI, AsyncAPI, and a page of both."""
