"""Drawings within the page: the same picture in fewer bytes, as the value of an attribute."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"#([\w.-]+)")


def data_uri(svg: str) -> Markup:
    """A drawing as a double-quoted ``src``: percent-encoded, which takes less room than base64."""
    text = compact(svg)
    if "'" not in text:
        text = text.replace('"', "'")
    for character in '%"#<>&\n':
        text = text.replace(character, f"%{ord(character):02X}")
    return Markup("data:image/svg+xml," + text)


def compact(svg: str) -> str:
    """The drawing without what nobody sees: comments, metadata, ids that nothing refers to, groups without a role."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    ids = {element.get("id") for element in root.iter()}
    values = [value for element in root.iter() for name, value in element.items() if name != "id"]
    used = sorted({name for value in values for name in _REFERENCE.findall(value) if name in ids})
    names = {name: f"i{number}" for number, name in enumerate(used)}
    for element in root.iter():
        _shorten(element, names)
    _unwrap(root)
    return ElementTree.tostring(root, encoding="unicode")


def _shorten(element: Element, names: dict[str, str]) -> None:
    element.tail = None
    if element.text and not element.text.strip():
        element.text = None
    if (link := element.attrib.pop(_LINK, None)) is not None:
        element.set("href", link)
    for attribute, value in list(element.items()):
        if attribute == "id":
            if value in names:
                element.set("id", names[value])
            else:
                del element.attrib["id"]
        elif attribute == "d":
            element.set("d", re.sub(r"\s*([A-Za-z])\s*", r"\1", value))
        else:
            if attribute == "style":
                value = re.sub(r"\s*([;:])\s*", r"\1", value)
            elif attribute == "transform":
                value = re.sub(r"translate\([^)]*\)", lambda m: re.sub(r"\.\d{3,}", lambda d: d[0][:3], m[0]), value)
            element.set(attribute, _REFERENCE.sub(lambda m: "#" + names.get(m[1], m[1]), value))


def _unwrap(parent: Element) -> None:
    """Replaces groups that have no attributes by what they hold."""
    flat: list[Element] = []
    for child in list(parent):
        _unwrap(child)
        if child.tag == f"{{{_SVG}}}g" and not child.attrib:
            flat += list(child)
        else:
            flat.append(child)
    parent[:] = flat
