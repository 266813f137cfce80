"""Model cards: what happened to a version (history), what its card says (content), how it reads (page)."""
