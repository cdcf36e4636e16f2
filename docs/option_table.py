"""The directive ``option-table``: the reference of the options, made from the table itself."""

from __future__ import annotations

from collections.abc import Iterator

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from sockscope._options.kinds import LOCAL, TCP
from sockscope._options.model import Option, Phase
from sockscope._options.table import TABLE

# The kinds of listening socket whose connections start with the option's value.
_LISTENERS = {"of TCP": TCP, "that are local": LOCAL}


class OptionTable(Directive):
    """A definition for each row."""

    def run(self) -> list[nodes.Node]:
        text = StringList([line for option in TABLE.values() for line in entry(option)])
        node = nodes.section()
        self.state.nested_parse(text, 0, node)
        return node.children


def entry(option: Option) -> Iterator[str]:
    """The lines of one option: its name and type, what it does, and its facts."""
    yield f"``{option.name}`` : {escaped(option.codec.type_name)}"
    yield f"   {escaped(option.doc)}"
    yield ""
    for name, value in facts(option):
        yield f"   *{name}*: {escaped(value)}."
    yield ""


def facts(option: Option) -> Iterator[tuple[str, str]]:
    """What there is to say of it, by name."""
    yield "Takes effect", option.phase.value
    if option.targets:
        yield "In C", ", ".join(dict.fromkeys(target.constant for target in option.targets))
    inherited = [
        words for words, kinds in _LISTENERS.items() if kinds & option.inherited & option.suited
    ]
    if option.phase is not Phase.READ_ONLY and not option.user:
        yield "Inherited from listening sockets", " and ".join(inherited) or "of no kind"
    if option.readback:
        yield "Read back", option.readback
    if option.privilege:
        yield "Needs", option.privilege
    yield "Platforms", option.platforms


def escaped(text: str) -> str:
    """*text* without markup of its own."""
    for character in "\\*`_|":
        text = text.replace(character, f"\\{character}")
    return text


def setup(app):
    app.add_directive("option-table", OptionTable)
    return {"parallel_read_safe": True}
