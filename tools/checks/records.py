"""Reads the fields of the records in a COCO file and reports malformed values."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from backbones.common.datasets import COCO_FIELDS, field_problem
from tools.checks.findings import CheckReport

MALFORMED, DUPLICATE, ODD_ID = "malformed field", "duplicate id", "odd annotation id"
NO_ID = -(2**53)  # stands for a malformed id; valid ids are greater
KINDS = {"images": "image", "categories": "category", "annotations": "annotation"}  # of the records, by list


class RecordList:
    """All records of one list (`images`, `annotations` or `categories`) of a COCO file.

    Attributes:
        records: the records; an entry of the list that is not a JSON object is replaced by an empty record.
        files: file of each record `[N]`, for the report.
        names: name of each record `[N]`, for the report; None if records are named by their ids.
    """

    def __init__(self, content: object, name: str, path: Path, split: str, report: CheckReport) -> None:
        self.name, self.split, self.report = name, split, report
        entries = content if isinstance(content, list) else []
        if not isinstance(content, list):
            report.add("no list", split, file=str(path), text=f"the list `{name}` is missing")
        elif not entries and name != "annotations":
            report.add("empty list", split, file=str(path), text=f"the list `{name}` is empty")
        self.records: list[Mapping[str, object]] = [entry if isinstance(entry, dict) else {} for entry in entries]
        self.files = [str(path)] * len(entries)
        self.names: list[str] | None = None
        self._is_object = [isinstance(entry, dict) for entry in entries]
        for index, entry in enumerate(entries):
            if not self._is_object[index]:
                self.add(index, MALFORMED, f"is {reprlib.repr(entry)}, not an object")

    def name_of(self, index: int) -> str:
        """Return a record's name for the report: its entry in `names`, else its id, else its index in the list."""
        if self.names is not None:
            return self.names[index]
        identifier = self.records[index].get("id")
        if not isinstance(identifier, int):
            return f"{self.name}[{index}]"
        return f"{KINDS[self.name]} {reprlib.repr(identifier)}"

    def add(self, index: int, kind: str, text: str) -> None:
        """Report a problem of a record."""
        self.report.add(kind, self.split, record=self.name_of(index), file=self.files[index], text=text)

    def column(self, name: str, *, absent: tuple[str, str] | None = None) -> list[object]:
        """Return the values of one field in all records. Malformed values are reported and returned as None.

        Args:
            absent: kind and text of the problem to report for a missing field; by default it counts as malformed.
        """
        rule = COCO_FIELDS[KINDS[self.name]][name]
        values = [record.get(name) for record in self.records]
        for index, value in enumerate(values):
            if rule.is_valid(value):
                continue
            if value is None and absent is not None and self._is_object[index]:
                self.add(index, *absent)
            elif self._is_object[index]:
                self.add(index, MALFORMED, field_problem(self.records[index], name, rule.expected))
            values[index] = None
        return values

    def texts(self, name: str) -> list[str | None]:
        """Return the values of a text field in all records. Malformed values are reported and returned as None."""
        return [value if isinstance(value, str) else None for value in self.column(name)]

    def ids(self, name: str) -> np.ndarray:
        """Return the values of an id field as an array `[N]`. Malformed values are reported and returned as `NO_ID`."""
        return np.array([value if isinstance(value, int) else NO_ID for value in self.column(name)], np.int64)

    def report_duplicates(self, ids: np.ndarray) -> None:
        """Report records that have the same id as an earlier record."""
        _, first = np.unique(ids, return_index=True)
        repeated = np.ones(len(ids), bool)
        repeated[first] = False
        for index in np.flatnonzero(repeated & (ids != NO_ID)):
            self.add(int(index), DUPLICATE, f"an earlier record has the same id {ids[index]}")

    def report_odd_ids(self) -> None:
        """Report ids of annotations that are missing, malformed or repeated. Nothing refers to them: it is a remark."""
        rule = COCO_FIELDS[KINDS[self.name]]["id"]
        seen: set[object] = set()
        for index, record in enumerate(self.records):
            value = record.get("id")
            if not rule.is_valid(value):
                if self._is_object[index]:
                    self.add(index, ODD_ID, field_problem(record, "id", rule.expected))
            elif value in seen:
                self.add(index, ODD_ID, f"an earlier record has the same id {value}")
            else:
                seen.add(value)

    def rows_of(self, name: str, known: np.ndarray, *, kind: str, target: str) -> np.ndarray:
        """Look up the ids in field `name` of all records; return their indices `[N]` in `known` `[K]`, -1 if absent.

        Args:
            kind: kind of the problem that is reported for an unknown id.
            target: name of the list that holds `known`.
        """
        ids = self.ids(name)
        rows = np.full(len(ids), -1)
        if len(known):
            order = np.argsort(known, kind="stable")
            found = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
            same = (known[found] == ids) & (ids != NO_ID)
            rows[same] = found[same]
        for index in np.flatnonzero((ids != NO_ID) & (rows < 0)):
            self.add(int(index), kind, f"`{name}` {ids[index]} is not in `{target}`")
        return rows
