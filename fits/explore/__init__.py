"""The browser page of `reinfuse explore`: what it shows, as arrays and tables, and the page itself."""
