"""The topology as a picture, in the words of Mermaid and of Graphviz.

Services are boxes with their handlers and the events that they publish. Dashed: what
undoes, and what only stops something. Failures are marked, timers carry their time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from choreo.topology.declared import HandlerDeclared
from choreo.topology.graph import Topology, short

__all__ = ["FORMATS", "drawn"]

FORMATS = ("mermaid", "dot")
MINUTE_S = 60.0
HOUR_S = 3600.0
OUTSIDE = ""


@dataclass(frozen=True)
class _Node:
    id: str
    label: str
    shape: str  # handler, timer, join, undo, event, failure, start, end


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    label: str = ""
    dashed: bool = False


def drawn(topology: Topology, form: str) -> str:
    """Draw it; `form` is one of FORMATS."""
    picture = _Picture(topology)
    return "\n".join(_mermaid(picture) if form == "mermaid" else _dot(picture)) + "\n"


class _Picture:
    """Nodes by service, and edges; the same topology always gives the same picture."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.groups: dict[str, list[_Node]] = {name: [] for name in topology.of_service}
        self.groups[OUTSIDE] = []
        self.edges: list[_Edge] = []
        self._events: dict[str, str] = {}
        for number, handler in enumerate(topology.handlers.values()):
            self._handler(f"h{number}", handler)
        ids = {name: f"h{number}" for number, name in enumerate(topology.handlers)}
        for handler in topology.handlers.values():
            if handler.of in ids:
                self.edges.append(_Edge(ids[handler.of], ids[handler.name], "gives up"))
        for number, one in enumerate(topology.flows):
            self._flow(f"f{number}", number)
            if one.flow.overdue:
                after = "" if one.flow.deadline_s is None else f"after {_time(one.flow.deadline_s)}"
                late = self._event(one.flow.overdue)
                self.edges.append(_Edge(f"f{number}", late, after))

    def _event(self, kind: str) -> str:
        if kind in self._events:
            return self._events[kind]
        id_ = self._events[kind] = f"e{len(self._events)}"
        seen = self.topology.seen.get(kind, [])
        by = [name.partition(".")[0] for name in self.topology.publishers.get(kind, ())]
        owners = [one.service for one in seen if one.owned and (not by or one.service in by)]
        shape = "failure" if kind in self.topology.failures else "event"
        group = (owners or by or [OUTSIDE])[0]
        self.groups.get(group, self.groups[OUTSIDE]).append(_Node(id_, short(kind), shape))
        return id_

    def _handler(self, id_: str, one: HandlerDeclared) -> None:
        service, _, name = one.name.partition(".")
        shape = {"join": "join", "compensate": "undo", "expects": "timer"}.get(one.kind, "handler")
        self.groups[service if service in self.groups else OUTSIDE].append(_Node(id_, name, shape))
        within = "" if one.within_s is None else _time(one.within_s)
        if one.kind == "join":
            for kinds, optional in one.slots:
                label = f"or after {within}" if optional and within else ""
                self._into(id_, kinds, label, dashed=optional)
        elif one.kind == "compensate":
            self._into(id_, one.inputs, "undoes", dashed=True)
            self._into(id_, one.on, dashed=True)
        elif one.kind == "expects":
            self._into(id_, one.inputs, f"after {within}")
            self._into(id_, one.on, "in time", dashed=True)
        elif one.kind != "otherwise":
            self._into(id_, one.inputs)
        self._into(id_, one.unless, "unless", dashed=True)
        undoes = one.kind == "compensate"
        for kind in one.outputs:
            label = "later" if kind in one.later else ""
            self.edges.append(_Edge(id_, self._event(kind), label, dashed=undoes))
        if one.nothing:
            self.edges.append(_Edge(id_, self._event(one.nothing), "nothing to undo", dashed=True))

    def _into(
        self, id_: str, kinds: Iterable[str], label: str = "", *, dashed: bool = False
    ) -> None:
        self.edges += [_Edge(self._event(kind), id_, label, dashed) for kind in kinds]

    def _flow(self, id_: str, number: int) -> None:
        one = self.topology.flows[number]
        self.groups[OUTSIDE].append(_Node(id_, one.flow.name, "start"))
        self.edges.append(_Edge(id_, self._event(one.flow.starts)))
        for kind in one.flow.ends:
            end = f"{id_}_{len(self.edges)}"
            shape = "end"
            self.groups[OUTSIDE].append(_Node(end, "end", shape))
            self.edges.append(_Edge(self._event(kind), end))


def _time(seconds: float) -> str:
    for size, unit in ((HOUR_S, "h"), (MINUTE_S, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


# ── Mermaid ──────────────────────────────────────────────────────────────────────────────

SHAPES = {
    "handler": ("[", "]"), "timer": ("[", "]"), "join": ("{{", "}}"), "undo": ("[/", "/]"),
    "event": ("([", "])"), "failure": ("([", "])"), "start": ("((", "))"), "end": ("(((", ")))"),
}  # fmt: skip
ICONS = {"timer": "⏰ ", "undo": "↶ ", "failure": "✘ "}
CLASSES = (
    "classDef failure fill:#fde2e1,stroke:#b3261e,color:#601410",
    "classDef undo fill:#f3e5f5,stroke:#7b1fa2,color:#38006b",
    "classDef timer fill:#fff4d6,stroke:#9a6700,color:#4d3800",
)


def _mermaid(picture: _Picture) -> Iterator[str]:
    yield "flowchart LR"
    for number, (service, nodes) in enumerate(picture.groups.items()):
        if not nodes:
            continue
        indent = "  "
        if service != OUTSIDE:
            yield f'  subgraph s{number}["{_escaped(service)}"]'
            indent = "    "
        for node in nodes:
            before, after = SHAPES[node.shape]
            label = ICONS.get(node.shape, "") + _escaped(node.label)
            style = f":::{node.shape}" if node.shape in ICONS else ""
            yield f'{indent}{node.id}{before}"{label}"{after}{style}'
        if service != OUTSIDE:
            yield "  end"
    for edge in picture.edges:
        arrow = "-.->" if edge.dashed else "-->"
        label = f'|"{_escaped(edge.label)}"|' if edge.label else ""
        yield f"  {edge.source} {arrow}{label} {edge.target}"
    yield from (f"  {line}" for line in CLASSES)


def _escaped(text: str) -> str:
    """Write what means something to Mermaid by its number."""
    return "".join(
        sign if sign.isalnum() or sign in " _-.:/" else f"#{ord(sign)};"
        for sign in text.replace("\n", " ")
    )


# ── Graphviz ─────────────────────────────────────────────────────────────────────────────

DOT = {
    "handler": "shape=box", "timer": 'shape=box, style=filled, fillcolor="#fff4d6"',
    "join": "shape=hexagon", "undo": 'shape=parallelogram, style=filled, fillcolor="#f3e5f5"',
    "event": "shape=box, style=rounded",
    "failure": 'shape=box, style="rounded,filled", fillcolor="#fde2e1", color="#b3261e"',
    "start": "shape=circle", "end": "shape=doublecircle",
}  # fmt: skip


def _dot(picture: _Picture) -> Iterator[str]:
    yield "digraph choreo {"
    yield "  rankdir=LR; node [fontname=sans]; edge [fontname=sans];"
    for number, (service, nodes) in enumerate(picture.groups.items()):
        if not nodes:
            continue
        indent = "  "
        if service != OUTSIDE:
            yield f'  subgraph cluster_{number} {{ label="{_quoted(service)}";'
            indent = "    "
        for node in nodes:
            label = ICONS.get(node.shape, "") + _quoted(node.label)
            yield f'{indent}{node.id} [label="{label}", {DOT[node.shape]}];'
        if service != OUTSIDE:
            yield "  }"
    for edge in picture.edges:
        about = [f'label="{_quoted(edge.label)}"'] if edge.label else []
        about += ["style=dashed"] if edge.dashed else []
        more = f" [{', '.join(about)}]" if about else ""
        yield f"  {edge.source} -> {edge.target}{more};"
    yield "}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
