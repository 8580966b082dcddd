"""What a user types: one thin file per command; `reinfuse.scripts.main` gathers them."""
