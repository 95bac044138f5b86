"""Sessions and contexts: text in, chunks out, over trio channels."""
