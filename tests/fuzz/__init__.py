"""Random input: mutated pictures and clips through the whole service, and requests made from the API's own description."""
