"""The Mimi codec (Defossez et al., 2024): streaming decoder and clip encoder."""
