async def parity(folder):
    raise NotImplementedError
