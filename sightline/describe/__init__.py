"""``sightline describe``: folders of pictures and videos into rows."""
