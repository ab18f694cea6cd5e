"""Ten questions at once, with asyncio. A server answers them side by side; the embedded model, one after another."""

import asyncio
import time

from slmclient import AsyncPhiClient, Reply

COUNTRIES = ("China", "Cuba", "Egypt", "Ghana", "Greece", "India", "Japan", "Kenya", "Norway", "Peru")


async def main() -> None:
    async with AsyncPhiClient() as client:

        async def capital(country: str) -> Reply:
            return await client.chat(f"What is the capital of {country}?", temperature=0, max_tokens=20)

        began = time.monotonic()
        replies = await asyncio.gather(*(capital(country) for country in COUNTRIES))
        for country, reply in zip(COUNTRIES, replies, strict=True):
            print(f"{country}: {reply.text}")
        tokens = sum(reply.usage.output_tokens for reply in replies)
        print(f"{len(replies)} answers, {tokens} tokens, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
