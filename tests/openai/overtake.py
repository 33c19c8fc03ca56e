async def overtake(folder):
    raise NotImplementedError
