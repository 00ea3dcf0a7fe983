"""Models to Avro: the schema of an event class, and how its instances are written by it.

The full name of the event is its type; the namespace of all that stands in it is that full
name, so two events may each have a `Line` of their own, and no name says in which Python
module a class lies. What has no form in Avro is a ConfigurationError that names the field.
"""

from __future__ import annotations

import collections.abc
import enum
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from operator import attrgetter
from typing import Any, NoReturn

import typing_extensions
from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from choreo.errors import ConfigurationError
from choreo.events import Event
from choreo.schemas.forms import (
    ANY_DECIMAL,
    LEAVES,
    Form,
    Json,
    NotWritableError,
    decimal_form,
    default_of,
    kind_of,
)
from choreo.schemas.parsing import avro_library

__all__ = ["derived", "full_name"]

SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ARRAYS = (
    list, set, frozenset, tuple, collections.abc.Sequence, collections.abc.Set,
    collections.abc.MutableSequence, collections.abc.MutableSet, collections.abc.Collection,
)  # fmt: skip
MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
ALIASES = (typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", ()))
OPTIONAL = "x-optional"
"""Marks a field of a view that may be missing though Avro has no default for it."""


def full_name(kind: str) -> str:
    """Give the Avro full name of an event type: the type, in letters that Avro allows."""
    return ".".join(_name(part) for part in kind.split("."))


def _name(part: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_]", "_", part)
    return f"_{plain}" if plain[:1].isdigit() else plain


def derived(event: type[Event]) -> Form:
    """Give the form of an event class: of an owned one to write, of a view to read."""
    info = event.__event__
    deriving = _Deriving(full_name(info.type), views=info.key is None)
    return deriving.whole(event)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a type stands: in which event, at which field, inside of which record."""

    event: str
    field: str
    record: str

    def refuse(self, what: str, fix: str) -> NoReturn:
        raise ConfigurationError(
            f"{what} has no Avro form", code="CH1040", fix=fix, event=self.event, field=self.field
        )


class _Deriving:
    """Derives one event's schema; named types are defined once, where they come first."""

    def __init__(self, name: str, *, views: bool) -> None:
        self._root = name
        self._views = views
        self._owners: dict[str, object] = {}
        self._named: dict[str, Json] = {}
        self._forms: dict[str, Form] = {}
        self._defaults: dict[str, set[str | None]] = {}

    def whole(self, event: type[Event]) -> Form:
        """Derive all of it."""
        place = _Place(event.__event__.type, "", "")
        form = self._record(event, self._root, place)
        for name, symbols in self._defaults.items():
            (first, *others) = symbols
            schema = self._named[name]
            # All fields that have it agree; what has one value is a tag, which may not be taken
            # for another.
            if first is not None and not others and len(schema["symbols"]) > 1:
                schema["default"] = first
        return form

    # ── records ──────────────────────────────────────────────────────────────────────────

    def _record(self, model: type[BaseModel], name: str, place: _Place) -> Form:
        if name in self._owners:
            if self._owners[name] is not model:
                place.refuse(f"two classes {model.__name__}", "rename one of them")
            return self._forms.get(name) or self._recursion(name, model)
        self._owners[name] = model
        _check_model(model, place)
        namespace, _, short = name.rpartition(".")
        schema: Json = {"type": "record", "name": short, "namespace": namespace, "fields": []}
        self._named[name] = schema
        converts: dict[str, Callable[[Any], Any]] = {}
        for field, about in model.model_fields.items():
            if about.exclude:
                continue
            inner = _Place(place.event, f"{place.field}.{field}".lstrip("."), short)
            form = self._field(field, about, schema, inner)
            if form.convert is not None:
                converts[field] = form.convert
        for field, made in model.model_computed_fields.items():
            inner = _Place(place.event, f"{place.field}.{field}".lstrip("."), short)
            form = self._of(made.return_type, (), inner)
            schema["fields"].append({"name": field, "type": form.schema})
            converts[field] = form.convert or _same
        computed = tuple(model.model_computed_fields)
        self._forms[name] = Form(name, _writing(converts, computed), (model,))
        return replace(self._forms[name], schema=schema)

    def _recursion(self, name: str, model: type[BaseModel]) -> Form:
        """Refer to a record inside of itself: its form is complete when the first is written."""

        def convert(value: Any) -> Any:
            write = self._forms[name].convert
            assert write is not None
            return write(value)

        return Form(name, convert, (model,))

    def _field(self, field: str, about: FieldInfo, record: Json, place: _Place) -> Form:
        if not SYMBOL.fullmatch(field):
            place.refuse("a name with other letters than A-Z, a-z, 0-9 and _", "rename the field")
        if any(hasattr(mark, "when_used") for mark in about.metadata):  # a serializer of its own
            place.refuse("a field with a serializer", "let its type say how it is written")
        form = self._of(about.annotation, about.metadata, place)
        made: Json = {"name": field, "type": form.schema}
        if not about.is_required():
            known, value = _constant(about, place)
            if known:
                form = self._with_default(made, form, value)
            elif self._views:
                made[OPTIONAL] = True
        self._note_default(made)
        record["fields"].append(made)
        return form

    def _with_default(self, made: Json, form: Form, value: Any) -> Form:
        """Write the default down; of a union its branch goes to the front."""
        schema = form.schema
        try:
            datum = value if form.convert is None else form.convert(value)
            if isinstance(schema, list):
                first = _branch_of(schema, datum)
                schema = [first, *(one for one in schema if one is not first)]
            default = default_of(schema, datum, self._named)
        except (ArithmeticError, AttributeError, KeyError, LookupError, TypeError, ValueError):
            if self._views:
                made[OPTIONAL] = True
            return form
        made["type"], made["default"] = schema, default
        return replace(form, schema=schema)

    def _note_default(self, made: Json) -> None:
        """Remember which symbol an enum's field falls back to."""
        options = made["type"] if isinstance(made["type"], list) else [made["type"]]
        for one in options:
            schema = self._named.get(one) if isinstance(one, str) else one
            if isinstance(schema, dict) and schema["type"] == "enum":
                name = f"{schema['namespace']}.{schema['name']}"
                default = made.get("default")
                known = default if default in schema["symbols"] else None
                self._defaults.setdefault(name, set()).add(known)

    # ── types ────────────────────────────────────────────────────────────────────────────

    def _of(self, annotation: Any, metadata: Iterable[object], place: _Place) -> Form:
        annotation, metadata = _plain(annotation, tuple(metadata))
        if annotation is Decimal:
            form = decimal_form(metadata)
            if form is None and self._views:
                form = Form(ANY_DECIMAL)
            return form or place.refuse(
                "a Decimal that does not say its digits",
                "write Annotated[Decimal, Field(max_digits=12, decimal_places=2)]",
            )
        if annotation in LEAVES:
            return LEAVES[annotation]
        origin = typing.get_origin(annotation)
        if origin is typing.Literal:
            return self._literal(typing.get_args(annotation), place)
        if origin in (typing.Union, types.UnionType):
            return self._union(typing.get_args(annotation), place)
        if origin in ARRAYS or annotation in ARRAYS:
            return self._array(annotation, place)
        if origin in MAPS or annotation in MAPS:
            return self._map(annotation, place)
        if isinstance(annotation, type):
            if issubclass(annotation, RootModel):
                return _root(self._of(annotation.model_fields["root"].annotation, (), place))
            if issubclass(annotation, BaseModel):
                return self._record(annotation, f"{self._root}.{_name(annotation.__name__)}", place)
            if issubclass(annotation, enum.Enum):
                return self._enum(annotation, place)
        return _as_text(annotation, place)

    def _array(self, annotation: Any, place: _Place) -> Form:
        inner = typing.get_args(annotation)
        if typing.get_origin(annotation) is tuple and not (len(inner) == 2 and inner[1] is ...):  # noqa: PLR2004 - tuple[X, ...]
            place.refuse(
                "a tuple of so many places", "use a list, tuple[X, ...], or a model of its own"
            )
        if not inner:
            place.refuse("a list of anything", "say of what: list[str]")
        item = self._of(inner[0], (), replace(place, field=f"{place.field}[]"))
        convert = item.convert
        kind = typing.get_origin(annotation) or annotation
        schema = {"type": "array", "items": item.schema}
        if convert is not None:
            return Form(schema, lambda many: [convert(one) for one in many], (kind,))
        return Form(schema, None if kind is list else list, (kind,))

    def _map(self, annotation: Any, place: _Place) -> Form:
        inner = typing.get_args(annotation)
        if not inner or _plain(inner[0], ())[0] is not str:
            place.refuse("a dict whose keys are no texts", "write dict[str, …], or a list of pairs")
        value = self._of(inner[1], (), replace(place, field=f"{place.field}{{}}"))
        convert = value.convert
        kind = typing.get_origin(annotation) or annotation
        schema = {"type": "map", "values": value.schema}
        if convert is not None:
            return Form(schema, lambda many: {k: convert(v) for k, v in many.items()}, (kind,))
        return Form(schema, None, (kind,))

    # ── choices ──────────────────────────────────────────────────────────────────────────

    def _enum(self, kind: type[enum.Enum], place: _Place) -> Form:
        values = [one.value for one in kind]
        as_values = all(isinstance(one, str) and SYMBOL.fullmatch(one) for one in values)
        if not as_values:
            form = self._literal(values, place)
            return Form(form.schema, attrgetter("value"), (kind,))
        name = f"{self._root}.{_name(kind.__name__)}"
        return Form(self._symbols(name, kind, values, place), attrgetter("value"), (kind,))

    def _literal(self, values: Iterable[Any], place: _Place) -> Form:
        values = [one.value if isinstance(one, enum.Enum) else one for one in values]
        if all(isinstance(one, str) for one in values):
            if not all(SYMBOL.fullmatch(one) for one in values):
                return LEAVES[str]  # no symbols: "in-transit"; the class says which there are
            name = f"{self._root}.{place.record}_{_name(place.field.rpartition('.')[2])}"
            return Form(self._symbols(name, tuple(values), values, place), _value_of, (str,))
        for kind in (bool, int):
            if all(type(one) is kind for one in values):
                return replace(LEAVES[kind], convert=_value_of)
        return place.refuse("a choice between values of several types", "use texts")

    def _symbols(self, name: str, owner: object, values: list[str], place: _Place) -> Json:
        known = self._owners.setdefault(name, owner)
        if known != owner:
            place.refuse(f"a second enum {name}", "rename the class, or the field")
        if name in self._named:
            return name
        namespace, _, short = name.rpartition(".")
        schema: Json = {"type": "enum", "name": short, "namespace": namespace, "symbols": values}
        self._named[name] = schema
        return schema

    def _union(self, options: tuple[Any, ...], place: _Place) -> Form:
        texts = [one for one in options if typing.get_origin(_plain(one, ())[0]) is typing.Literal]
        if len(texts) > 1:  # Literal["a"] | Literal["b"] is one choice
            merged = tuple(v for one in texts for v in typing.get_args(_plain(one, ())[0]))
            rest = tuple(one for one in options if one not in texts)
            options = (*rest, typing.Literal[merged])
        forms = [self._of(one, (), place) for one in options]
        null = [one for one in forms if one.schema == "null"]
        rest_forms = [one for one in forms if one.schema != "null"]
        kinds = [self._branch(one.schema) for one in rest_forms]
        if twice := [kind for kind in kinds if kinds.count(kind) > 1]:
            place.refuse(
                f"a union with two branches of the Avro type {twice[0]}",
                "leave one out, or let each be a model with a field that tells them apart",
            )
        if len(rest_forms) == 1:
            form = rest_forms[0]
            if not null:
                return form
            return Form(["null", form.schema], _or_none(form, self._tag(form)), form.types)
        chosen = [(one.types, self._tag(one), one.convert) for one in rest_forms]
        schemas = [one.schema for one in (*null, *rest_forms)]
        return Form(schemas, _choosing(chosen), tuple(t for one in rest_forms for t in one.types))

    def _branch(self, schema: Json) -> str:
        """Name a branch as Avro tells branches apart."""
        if isinstance(schema, str) and schema in self._named:
            return schema
        kind = kind_of(schema)
        if kind in ("record", "enum"):
            return f"{schema['namespace']}.{schema['name']}"
        return kind

    def _tag(self, form: Form) -> str | None:
        """Name a record's branch, so that the writer does not have to try each of them."""
        name = self._branch(form.schema)
        return name if self._named.get(name, {}).get("type") == "record" else None


# ── converting ───────────────────────────────────────────────────────────────────────────


def _same(value: Any) -> Any:
    return value


def _value_of(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _root(form: Form) -> Form:
    convert = form.convert or _same
    return Form(form.schema, lambda model: convert(model.root), (RootModel,))


def _writing(
    converts: Mapping[str, Callable[[Any], Any]], computed: tuple[str, ...]
) -> Callable[[Any], Any]:
    if not converts:
        return attrgetter("__dict__")
    pairs = [(name, convert) for name, convert in converts.items() if name not in computed]
    more = [(name, converts[name]) for name in computed]

    def write(model: Any) -> dict[str, Any]:
        datum = dict(model.__dict__)
        name = ""
        try:
            for name, convert in pairs:
                datum[name] = convert(datum[name])
            for name, convert in more:
                datum[name] = convert(getattr(model, name))
        except NotWritableError as inner:
            raise NotWritableError(f"{name}.{inner.field}") from None
        except Exception:  # noqa: BLE001 - a value that is none of its field's type
            raise NotWritableError(name) from None
        return datum

    return write


def _or_none(form: Form, tag: str | None) -> Callable[[Any], Any] | None:
    convert = form.convert
    if tag is not None:
        write = convert or _same
        return lambda value: None if value is None else (tag, write(value))
    if convert is None:
        return None
    return lambda value: None if value is None else convert(value)


def _choosing(
    chosen: list[tuple[tuple[type, ...], str | None, Callable[[Any], Any] | None]],
) -> Callable[[Any], Any]:
    """Make what finds the branch of a value by its type: the very type first."""

    def choose(value: Any) -> Any:
        if value is None:
            return None
        for exact in (True, False):
            for kinds, tag, convert in chosen:
                if type(value) in kinds if exact else isinstance(value, kinds):
                    datum = value if convert is None else convert(value)
                    return datum if tag is None else (tag, datum)
        return value

    return choose


# ── looking at models ────────────────────────────────────────────────────────────────────


def _check_model(model: type[BaseModel], place: _Place) -> None:
    decorators = model.__pydantic_decorators__
    if decorators.field_serializers or decorators.model_serializers:
        place.refuse(
            f"{model.__name__}, which has a serializer of its own",
            "let the types of its fields say how they are written",
        )
    if model.model_config.get("extra") == "allow":
        place.refuse(f"{model.__name__}, which allows extra fields", 'take extra="allow" out')


def _plain(annotation: Any, metadata: tuple[object, ...]) -> tuple[Any, tuple[object, ...]]:
    """Take Annotated, NewType and type aliases off; their marks are kept."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, *marks = typing.get_args(annotation)
            metadata = (*metadata, *marks)
        elif isinstance(annotation, ALIASES):
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        else:
            return annotation, metadata


def _constant(about: FieldInfo, place: _Place) -> tuple[bool, Any]:
    """Give a field's default if it is always the same."""
    if about.default_factory is None:
        made = [about.default]
    elif about.default_factory_takes_validated_data:
        return False, None
    else:
        factory = typing.cast("Callable[[], Any]", about.default_factory)
        made = [factory(), factory()]
    if made[0] != made[-1]:
        return False, None
    kind: Any = about.annotation
    if about.metadata:
        kind = typing.Annotated[kind, *about.metadata]
    try:
        return True, TypeAdapter(kind).validate_python(made[0])
    except ValidationError:
        return place.refuse(
            "a default that is none of its type's values", "give a default of the field's type"
        )


def _branch_of(schema: list[Json], datum: Any) -> Json:
    """Find the branch of a union that a default belongs to."""
    if datum is None:
        return next(one for one in schema if one == "null")
    validate = avro_library().validate
    others = [one for one in schema if one != "null"]
    if isinstance(datum, tuple):
        return next(
            one for one in others
            if one == datum[0]
            or (isinstance(one, dict) and f"{one.get('namespace')}.{one.get('name')}" == datum[0])
        )  # fmt: skip
    if len(others) == 1:
        return others[0]
    return next(one for one in others if validate(datum, one, raise_errors=False))


def _as_text(annotation: Any, place: _Place) -> Form:
    """Take what is a text in JSON as a text: URLs, addresses, paths, durations."""
    what = getattr(annotation, "__name__", None) or str(annotation)
    fix = "use a type that Avro has, or a pydantic model"
    if annotation in (Any, object) or isinstance(annotation, typing.TypeVar):
        place.refuse("a value of any type", fix)
    try:
        adapter = TypeAdapter(annotation)
        schema = adapter.json_schema(mode="serialization")
    except PydanticUserError:
        place.refuse(what, fix)
    if schema.get("type") != "string":
        place.refuse(what, fix)
    write = adapter.serializer.to_python
    kinds = (annotation,) if isinstance(annotation, type) else ()
    return Form("string", lambda value: write(value, mode="json"), kinds)
