"""For viewers: receive volumes from a running daemon. Needs numpy, pyzmq and pydantic only.

>>> from live_restore.client import Subscriber
>>> with Subscriber("tcp://127.0.0.1:5556") as subscriber:  # doctest: +SKIP
...     for message in subscriber:
...         print(message.header.channel, message.data.shape)
"""

from live_restore.client.arrays import ReusedArrays
from live_restore.client.control import AsyncControl, Control
from live_restore.client.subscriber import AsyncLatest, AsyncSubscriber, Latest, Subscriber
from live_restore.keys import ClientKeys
from live_restore.messages import (
    Announcement,
    EndHeader,
    Header,
    Heartbeat,
    Message,
    Preview,
    SkippedHeader,
    StartHeader,
    VolumeMessage,
)

__all__ = [
    "Announcement",
    "AsyncControl",
    "AsyncLatest",
    "AsyncSubscriber",
    "ClientKeys",
    "Control",
    "EndHeader",
    "Header",
    "Heartbeat",
    "Latest",
    "Message",
    "Preview",
    "ReusedArrays",
    "SkippedHeader",
    "StartHeader",
    "Subscriber",
    "VolumeMessage",
]
