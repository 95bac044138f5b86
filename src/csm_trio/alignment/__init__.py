"""Which character is being spoken when: text and its audio in, characters with times out."""
