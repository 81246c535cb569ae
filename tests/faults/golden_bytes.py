"""The wire as it was when it was first published: bytes of every message, and every field's number.

`python -m tests.faults.golden_bytes` writes what is missing in tests/faults/golden and never
touches what is there: a file that no longer fits means that older peers are broken.
"""

import json
from pathlib import Path

from google.protobuf import json_format

from worldloom.bridge.v1 import bridge_pb2 as pb

FOLDER = Path(__file__).parent / "golden"
FIELDS, VALUES = FOLDER / "fields.json", FOLDER / "values.json"


def message_classes():
    """Every message of the protocol by name."""
    return {name: getattr(pb, name) for name in pb.DESCRIPTOR.message_types_by_name}


def filled(descriptor, *, depth=0):
    """A message with a value in every field; of a oneof the last one stays."""
    message = getattr(pb, descriptor.name)()
    for number, field in enumerate(descriptor.fields, 1):
        if field.message_type is not None:
            child = filled(field.message_type, depth=depth + 1)
            place = getattr(message, field.name)
            if many(field):
                place.append(child)
            else:
                place.CopyFrom(child)
        elif many(field):
            getattr(message, field.name).append(value_of(field, number))
        else:
            setattr(message, field.name, value_of(field, number))
    return message


def many(field):
    """Whether a field repeats; runtimes before and after protobuf 7 tell it differently."""
    told = getattr(field, "is_repeated", None)
    return bool(told) if told is not None else field.label == field.LABEL_REPEATED


def value_of(field, number):
    """A value of a field's type that differs from its default."""
    kinds = {
        field.TYPE_STRING: f"{field.name} \N{SNOWMAN}",
        field.TYPE_BYTES: bytes([0, number, 255]),
        field.TYPE_BOOL: True,
        field.TYPE_DOUBLE: number + 0.5,
        field.TYPE_UINT64: 2**63 + number,
        field.TYPE_INT64: -(2**40) - number,
        field.TYPE_UINT32: 2**31 + number,
        field.TYPE_INT32: -number,
    }
    return kinds[field.type]


def event_with(name):
    """An event that carries one of the kinds."""
    event = pb.Event(seq=7, at_unix_s=2.5)
    descriptor = pb.Event.DESCRIPTOR.fields_by_name[name].message_type
    getattr(event, name).CopyFrom(filled(descriptor))
    getattr(event, name).SetInParent()
    return event


def samples():
    """(file name, message) of everything that goes over the wire."""
    for name, cls in message_classes().items():
        if name != "Event":
            yield name, filled(cls.DESCRIPTOR)
    for field in pb.Event.DESCRIPTOR.oneofs_by_name["what"].fields:
        yield f"Event-{field.name}", event_with(field.name)


def as_values(message):
    """The fields that are set, as JSON values."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def field_table():
    """{message: {number: [name, type, repeats]}} as the code here has it."""
    return {
        name: {str(f.number): [f.name, f.type, many(f)] for f in cls.DESCRIPTOR.fields}
        for name, cls in message_classes().items()
    }


def main():
    """Write what is missing."""
    FOLDER.mkdir(exist_ok=True)
    values = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    for name, message in samples():
        if not (FOLDER / f"{name}.bin").exists():
            (FOLDER / f"{name}.bin").write_bytes(message.SerializeToString(deterministic=True))
            values[name] = as_values(message)
    VALUES.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    known = json.loads(FIELDS.read_text()) if FIELDS.exists() else {}
    for name, fields in field_table().items():
        known[name] = {**fields, **known.get(name, {})}
    FIELDS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
