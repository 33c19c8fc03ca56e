"""The demo: pictures with known truth, and a tiny model trained on them."""
