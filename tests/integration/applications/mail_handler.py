"""A handler of aiosmtpd that stores slowly behind one lock, and holds the loop for some mails."""

import asyncio
import time


class Planted:
    def __init__(self):
        self.mailbox = asyncio.Lock()

    async def handle_DATA(self, server, session, envelope):
        if b"block" in envelope.content:
            time.sleep(0.25)  # BLOCKS
        else:
            await self.store()
        return "250 OK"

    async def store(self):
        async with self.mailbox:  # WAITS
            await asyncio.sleep(0.3)  # SLOW
