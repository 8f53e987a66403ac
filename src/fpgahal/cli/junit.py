# SPDX-License-Identifier: Apache-2.0
"""JUnit XML, as build servers read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from fpgahal.cli.checking import Result

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(properties: Sequence[tuple[str, str]], text: str, results: Sequence[Result]) -> bytes:
    """The report of one board: its properties, a closing text, and a test case for each check."""
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(one.result == "failed" for one in results)),
        "errors": "0",
        "skipped": str(sum(one.result == "left out" for one in results)),
        "time": f"{sum(one.seconds for one in results):.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "fpgahal.conformance", **counts})
    listed = ElementTree.SubElement(suite, "properties")
    for name, value in properties:
        ElementTree.SubElement(listed, "property", name=name, value=_clean(value))
    for one in results:
        module, _, name = one.name.partition(".")
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"fpgahal.conformance.{module}", name=_clean(name), time=f"{one.seconds:.3f}"
        )
        if one.result == "failed":
            ElementTree.SubElement(case, "failure", message=_clean(one.reason)).text = _clean(one.detail)
        elif one.result == "left out":
            ElementTree.SubElement(case, "skipped", message=_clean(one.reason))
    ElementTree.SubElement(suite, "system-out").text = _clean(text)
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _clean(text: str) -> str:
    """What XML can hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
