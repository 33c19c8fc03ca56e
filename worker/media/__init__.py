"""From a reference to pixels: fetch, decode in a sandbox, scale."""
