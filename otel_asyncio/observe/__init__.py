"""Facts about asyncio, recorded as integers and handed to a sink. Imports the standard library only."""
