"""What a client of Micro-Manager's bridge takes for a Java object."""

from __future__ import annotations

from typing import Any


def java(returns: str, *arguments: str) -> Any:
    """Marks a method that clients see, with its Java types."""

    def mark(function: Any) -> Any:
        function.java = {"arguments": list(arguments), "return-type": returns}
        return function

    return mark


class JavaObject:
    java_class = "java.lang.Object"
    interfaces: tuple[str, ...] = ()

    @classmethod
    def api(cls) -> list[dict[str, Any]]:
        methods = {name: getattr(cls, name) for name in dir(cls)}
        return [{"name": n, **m.java} for n, m in methods.items() if hasattr(m, "java")]


class JavaList(JavaObject):
    java_class = "java.util.ArrayList"
    interfaces = ("java.util.List",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    @java("int")
    def size(self) -> int:
        return len(self.items)

    @java("java.lang.Object", "int")
    def get(self, index: int) -> Any:
        return self.items[index]
