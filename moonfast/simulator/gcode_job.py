"""Commands of the print job: files, pause and cancel, progress, objects that can be left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .gcode_lines import GcodeError, Line, Table, plain
from .printer import Printer
from .sdcard import SdCard


class JobCommands:
    """M20 to M27, SDCARD_*, PAUSE, RESUME, CANCEL_PRINT, M73, SET_PRINT_STATS_INFO, EXCLUDE_OBJECT*."""

    def __init__(self, printer: Printer, card: SdCard, say: Callable[[str], None]) -> None:
        self._printer, self._card, self._say = printer, card, say

    def table(self) -> Table:
        card = self._card
        return {
            "M20": (plain(lambda line: self._list_files()), ""),
            "M21": (plain(lambda line: self._say("SD card ok")), ""),
            "M23": (plain(lambda line: self._load(line.rest)), ""),
            "M24": (plain(lambda line: card.start()), ""),
            "M25": (plain(lambda line: card.pause()), ""),
            "M26": (plain(lambda line: card.seek(line.whole("S"))), ""),
            "M27": (plain(lambda line: self._report()), ""),
            "M73": (plain(self._set_progress), ""),
            "SDCARD_PRINT_FILE": (
                plain(self._print_file),
                "Loads a SD file and starts the print.  May include files in subdirectories.",
            ),
            "SDCARD_RESET_FILE": (
                plain(lambda line: self._reset()),
                "Clears a loaded SD File. Stops the print if necessary",
            ),
            "PAUSE": (plain(lambda line: self._pause()), "Pauses the current print"),
            "RESUME": (plain(lambda line: self._resume()), "Resumes the print from a pause"),
            "CLEAR_PAUSE": (
                plain(lambda line: self._clear_pause()),
                "Clears the current paused state without resuming the print",
            ),
            "CANCEL_PRINT": (plain(lambda line: self._cancel()), "Cancel the current print"),
            "SET_PRINT_STATS_INFO": (
                plain(self._set_layers),
                "Pass slicer info like layer act and total to klipper",
            ),
            "EXCLUDE_OBJECT_DEFINE": (plain(self._define), "Provides a summary of an object"),
            "EXCLUDE_OBJECT_START": (plain(self._begin_object), "Marks the beginning the current object as labeled"),
            "EXCLUDE_OBJECT_END": (plain(self._end_object), "Marks the end the current object"),
            "EXCLUDE_OBJECT": (plain(self._exclude), "Cancel moves inside a specified objects"),
        }

    # files

    def _load(self, name: str) -> None:
        self._card.load(name)
        self._forget_objects()

    def _print_file(self, line: Line) -> None:
        self._load(line.text_of("FILENAME"))
        self._clear_pause()
        self._printer.set_m73_progress(None)
        self._card.start()

    def _reset(self) -> None:
        self._card.reset()
        self._forget_objects()

    def _list_files(self) -> None:
        names = "".join(f"{name} {size}\n" for name, size in self._card.list_files())
        self._say(f"Begin file list\n{names}End file list")

    def _report(self) -> None:
        if self._card.is_loaded:
            self._say(f"SD printing byte {self._card.position}/{self._card.size}")
        else:
            self._say("Not SD printing.")

    # pause

    def _pause(self) -> None:
        if self._printer.is_paused:
            self._say("// Print already paused")
            return
        if self._card.is_active:
            self._card.pause()
        else:
            self._say("// action:paused")
        self._printer.is_paused = True

    def _resume(self) -> None:
        if not self._printer.is_paused:
            self._say("// Print is not paused, resume aborted")
            return
        self._printer.is_paused = False
        if self._card.is_loaded:
            self._card.start()
        else:
            self._say("// action:resumed")

    def _cancel(self) -> None:
        if self._card.is_loaded:
            self._card.cancel()
        else:
            self._say("// action:cancel")
        self._clear_pause()
        self._forget_objects()

    def _clear_pause(self) -> None:
        self._printer.is_paused = False

    # progress

    def _set_progress(self, line: Line) -> None:
        self._printer.set_m73_progress(min(1.0, max(0.0, line.number("P", 0.0) / 100.0)))

    def _set_layers(self, line: Line) -> None:
        current, total = self._card.layers
        if "TOTAL_LAYER" in line.params:
            total = line.whole("TOTAL_LAYER")
            if total <= 0:
                current = total = None
        if "CURRENT_LAYER" in line.params and total is not None:
            current = min(max(0, line.whole("CURRENT_LAYER")), total)
        self._card.layers = (current, total)

    # objects

    def _forget_objects(self) -> None:
        printer = self._printer
        printer.objects, printer.excluded, printer.current_object = [], [], None

    def _define(self, line: Line) -> None:
        if "RESET" in line.params:
            self._forget_objects()
        if "NAME" in line.params:
            known: dict[str, Any] = {"name": line.params["NAME"].upper()}
            if "CENTER" in line.params:
                known["center"] = self._json(line, "CENTER", f"[{line.params['CENTER']}]")
            if "POLYGON" in line.params:
                known["polygon"] = self._json(line, "POLYGON", line.params["POLYGON"])
            self._add(known)
        elif "RESET" not in line.params:
            names = " ".join(item["name"] for item in self._printer.objects)
            self._say(f"// Known objects: {names}")

    @staticmethod
    def _json(line: Line, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise GcodeError(f"Error on '{line.text}': unable to parse {line.params[name]}") from None

    def _add(self, known: dict[str, Any]) -> None:
        if all(item["name"] != known["name"] for item in self._printer.objects):
            self._printer.objects = sorted([*self._printer.objects, known], key=lambda item: str(item["name"]))

    def _begin_object(self, line: Line) -> None:
        name = line.text_of("NAME").upper()
        self._add({"name": name})
        self._printer.current_object = name

    def _end_object(self, line: Line) -> None:
        if self._printer.current_object is None:
            self._say("// EXCLUDE_OBJECT_END called, but no object is currently active")
        self._printer.current_object = None

    def _exclude(self, line: Line) -> None:
        printer = self._printer
        if "RESET" in line.params:
            gone = line.params["NAME"].upper() if "NAME" in line.params else None
            printer.excluded = [] if gone is None else [name for name in printer.excluded if name != gone]
        elif "NAME" in line.params:
            self._leave_out(line.params["NAME"].upper())
        elif "CURRENT" in line.params:
            if printer.current_object is None:
                raise GcodeError("There is no current object to cancel")
            self._leave_out(printer.current_object)
        else:
            self._say(f"// Excluded objects: {' '.join(printer.excluded)}")

    def _leave_out(self, name: str) -> None:
        self._say(f"// Excluding object {name}")
        if name not in self._printer.excluded:
            self._printer.excluded = sorted([*self._printer.excluded, name])
