async def schema(folder):
    raise NotImplementedError
