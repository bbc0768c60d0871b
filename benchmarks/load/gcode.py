"""Write sliced files of any size for the benchmarks: moves, comments, thumbnails and settings as slicers write them.

python -m benchmarks.load.gcode --mb 100 --slicer orcaslicer --objects exclude out.gcode

The same arguments give the same bytes. A few layers are built and then repeated at rising heights, so a big file takes
as long as the disk needs.
"""

import argparse
import base64
import math
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
LAYER_HEIGHT = 0.2  # mm
# bigger files have more to print in each layer, they are not higher than a printer
LAYER_BYTES, MOST_LAYERS = 40_000, 1000
CHANGE_BYTES = 250  # at most: what a layer begins with, and by how much its last line may be too long
VARIANTS = 4  # how many different layers are built
FILAMENT_PER_MM = 0.0334  # mm of 1.75 mm filament for each mm of a line 0.45 mm wide
MM_PER_S = 60.0  # mean speed
FILAMENT_G_PER_MM = 0.00298  # PLA
THUMBNAILS = (32, 300)
OBJECTS = ("none", "comments", "exclude")
SLICED_AT = "2026-05-04 at 10:11:12"


@dataclass(frozen=True)
class Style:
    """How one slicer spells what all of them write."""

    outer: str
    inner: str
    infill: str
    layer: str  # in front of each layer; fields: z, number (from 0)


STYLES = {
    "prusaslicer": Style(
        ";TYPE:External perimeter\n;WIDTH:0.45\n",
        ";TYPE:Perimeter\n",
        ";TYPE:Internal infill\n",
        ";LAYER_CHANGE\n;Z:{z:.6g}\n;HEIGHT:0.2\n;BEFORE_LAYER_CHANGE\nG92 E0\n;{z:.6g}\n",
    ),
    "orcaslicer": Style(
        ";TYPE:Outer wall\n;WIDTH:0.42\n",
        ";TYPE:Inner wall\n",
        ";TYPE:Sparse infill\n",
        ";LAYER_CHANGE\n;Z:{z:.6g}\n;HEIGHT:0.2\n;BEFORE_LAYER_CHANGE\n;{z:.6g}\nG92 E0\n",
    ),
    "cura": Style(";TYPE:WALL-OUTER\n", ";TYPE:WALL-INNER\n", ";TYPE:FILL\n", ";LAYER:{number}\n"),
}
SLICERS = tuple(STYLES)


@dataclass(frozen=True)
class Part:
    """One of the things on the bed: a rounded shape with waves in its outline."""

    name: str
    x: float
    y: float
    radius: float
    waves: int

    def outline(self, inset: float, steps: int) -> list[tuple[float, float]]:
        points = []
        for step in range(steps + 1):
            angle = step / steps * math.tau
            reach = (self.radius - inset) * (1 + 0.08 * math.sin(self.waves * angle))
            points.append((self.x + reach * math.cos(angle), self.y + reach * math.sin(angle)))
        return points


@dataclass(frozen=True)
class Totals:
    """What the comments say about the whole print."""

    layers: int
    filament_mm: float
    seconds: int

    @property
    def filament_g(self) -> float:
        return self.filament_mm * FILAMENT_G_PER_MM

    @property
    def height(self) -> float:
        return self.layers * LAYER_HEIGHT

    @property
    def duration(self) -> str:
        hours, rest = divmod(self.seconds, 3600)
        return f"{hours}h {rest // 60}m {rest % 60}s"


def content(size: int, slicer: str = "prusaslicer", *, seed: int = 1, objects: str = "none") -> Iterator[bytes]:
    """Yield a sliced file of exactly `size` bytes in pieces of at most a layer; ValueError if that is too small."""
    rng = random.Random(f"{slicer} {seed} {objects}")
    style = STYLES[slicer]
    parts = [
        Part(f"Part_{n}.stl", 55 + 50 * (n % 4), 55 + 50 * (n // 4), rng.uniform(14, 20), rng.randint(3, 9))
        for n in range(rng.randint(3, 8))
    ]
    pictures = "".join(_thumbnail(width, rng.getrandbits(32)) for width in THUMBNAILS)
    settings = list(_settings(rng))

    def ends(totals: Totals) -> tuple[bytes, bytes]:
        start = _head(slicer, totals, pictures) + _start_moves(slicer, parts, objects)
        return start.encode(), _tail(slicer, totals, settings).encode()

    room = size - sum(map(len, ends(Totals(MOST_LAYERS, 1e6, 1_000_000))))
    layers = max(1, min(MOST_LAYERS, room // LAYER_BYTES))
    body = room // layers - CHANGE_BYTES
    bodies = [_layer_moves(style, slicer, parts, body, turn, objects, rng) for turn in range(VARIANTS)]
    more, _ = _layer_moves(style, slicer, parts, body, 0, "none", rng)
    filament_mm = sum(bodies[number % VARIANTS][1] for number in range(layers))
    totals = Totals(layers, filament_mm, round(filament_mm / FILAMENT_PER_MM / MM_PER_S) + 90)

    start, end = ends(totals)
    left = size - len(start) - len(end)
    yield start
    for number in range(layers):
        z = (number + 1) * LAYER_HEIGHT
        minutes = totals.seconds * (layers - number) // layers // 60
        change = (
            f"{style.layer.format(z=z, number=number)}M73 P{100 * number // layers} R{minutes}\nG1 Z{z:.6g} F9000\n"
        )
        layer = change.encode() + bodies[number % VARIANTS][0]
        left -= len(layer)
        if left < 0:
            raise ValueError(f"a sliced file with a layer of {len(layer)} bytes does not fit into {size} bytes")
        yield layer
    while left > len(more):  # the top layer gets a little more, so that the size is met
        yield more
        left -= len(more)
    whole = more.rfind(b"\n", 0, left) + 1
    yield more[:whole]
    yield _filler(left - whole)
    yield end


def write(path: Path, size: int, slicer: str = "prusaslicer", *, seed: int = 1, objects: str = "none") -> None:
    """Write such a file; a file that is there is replaced when the new one is complete."""
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb", buffering=MB) as file:
            file.writelines(content(size, slicer, seed=seed, objects=objects))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def picture(width: int, seed: int = 1) -> bytes:
    """Return a square PNG, RGBA: a shaded disc with some grain on nothing."""
    rng = random.Random(seed)
    grain = [rng.getrandbits(4) for _ in range(64)]
    middle, rows = width / 2, bytearray()
    for y in range(width):
        rows.append(0)  # this row is not filtered
        half = math.sqrt(max(0.0, (0.45 * width) ** 2 - (y - middle) ** 2))
        first, last = round(middle - half), round(middle + half)
        rows += bytes(4 * first)
        for x in range(first, last):
            rows += bytes(
                (40 + 180 * x // width, 200 - 120 * y // width, 90 + grain[(x // 8 * 7 + y // 8 * 13) % 64], 255)
            )
        rows += bytes(4 * (width - last))
    header = struct.pack(">IIBBBBB", width, width, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _filler(size: int) -> bytes:
    if size < 3:
        return b"\n" * size
    return b"; " + b"-" * (size - 3) + b"\n"


def _layer_moves(
    style: Style, slicer: str, parts: list[Part], size: int, turn: int, objects: str, rng: random.Random
) -> tuple[bytes, float]:
    """Return about `size` bytes of moves, the same share for each part, and the filament in them, mm."""
    lines: list[str] = []
    written, used_mm = 0, 0.0

    def add(line: str) -> None:
        nonlocal written
        lines.append(line)
        written += len(line)

    def draw(points: list[tuple[float, float]], until: int) -> None:
        nonlocal used_mm
        at_x, at_y = points[0]
        add(f"G1 E-.8 F2100\nG1 X{at_x:.3f} Y{at_y:.3f} F18000\nG1 E.8 F2100\nG1 F{rng.choice((2400, 3600, 4800))}\n")
        for x, y in points[1:]:
            if written >= until:
                return
            length = math.hypot(x - at_x, y - at_y)
            add(f"G1 X{x:.3f} Y{y:.3f} E{f'{length * FILAMENT_PER_MM:.5f}'.lstrip('0')}\n")
            used_mm += length * FILAMENT_PER_MM
            at_x, at_y = x, y

    for number, part in enumerate(parts):
        begin, end = _object_marks(slicer, objects, number, part)
        until = size * (number + 1) // len(parts) - len(end)
        add(begin)
        steps = max(24, min(360, size // len(parts) // 400))
        for wall in range(3):
            add(style.outer if wall == 2 else style.inner)
            draw(part.outline(0.2 + 0.45 * (2 - wall), steps), until)
        add(style.infill)
        while written < until:
            draw(_zigzag(part, turn, rng.uniform(0.9, 2.5)), until)
        add(end)
    return "".join(lines).encode(), used_mm


def _zigzag(part: Part, turn: int, spacing: float) -> list[tuple[float, float]]:
    """Return the corners of an infill that fills the part's inner circle, turned by 45 degrees from layer to layer."""
    reach = part.radius * 0.88 - 1.5
    across, along = math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)
    points, offset, side = [], -reach + spacing, 1
    while offset < reach:
        half = math.sqrt(reach * reach - offset * offset)
        for u in (-half * side, half * side):
            points.append((part.x + u * across - offset * along, part.y + u * along + offset * across))
        offset, side = offset + spacing, -side
    return points


def _object_marks(slicer: str, objects: str, number: int, part: Part) -> tuple[str, str]:
    if objects == "exclude":
        name = _klipper_name(slicer, number, part)
        return f"EXCLUDE_OBJECT_START NAME={name}\n", f"EXCLUDE_OBJECT_END NAME={name}\n"
    if objects == "none":
        return "", ""
    if slicer == "cura":
        return f";MESH:{part.name}\n", ";MESH:NONMESH\n"
    label = f"{part.name} id:{number} copy 0"
    return f"; printing object {label}\n", f"; stop printing object {label}\n"


def _klipper_name(slicer: str, number: int, part: Part) -> str:
    label = part.name if slicer == "cura" else f"{part.name}_id_{number}_copy_0"
    return label.replace(".", "_").upper() if slicer == "cura" else label


def _start_moves(slicer: str, parts: list[Part], objects: str) -> str:
    lines = []
    if objects == "exclude":
        for number, part in enumerate(parts):
            corners = ",".join(f"[{x:.3f},{y:.3f}]" for x, y in part.outline(0, 24))
            name, center = _klipper_name(slicer, number, part), f"{part.x:g},{part.y:g}"
            lines.append(f"EXCLUDE_OBJECT_DEFINE NAME={name} CENTER={center} POLYGON=[{corners}]")
    lines += [
        "M140 S60 ; set bed temp", "M104 S215 ; set extruder temp", "G28 ; home all axes", "M190 S60", "M109 S215",
        "G21 ; set units to millimeters", "G90 ; use absolute coordinates",
        "M83 ; use relative distances for extrusion", "M107",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _head(slicer: str, totals: Totals, pictures: str) -> str:
    if slicer == "cura":
        return (
            f";FLAVOR:Marlin\n;TIME:{totals.seconds}\n;Filament used: {totals.filament_mm / 1000:.5f}m\n"
            f";Layer height: {LAYER_HEIGHT}\n;MINX:35\n;MINY:35\n;MINZ:{LAYER_HEIGHT}\n;MAXX:225\n;MAXY:125\n"
            f";MAXZ:{totals.height:.6g}\n;TARGET_MACHINE.NAME:Generic 3D Printer\n"
            f";Generated with Cura_SteamEngine 5.6.0\n{pictures};LAYER_COUNT:{totals.layers}\n"
        )
    if slicer == "orcaslicer":
        return (
            f"; HEADER_BLOCK_START\n; generated by OrcaSlicer 2.1.1 on {SLICED_AT}\n"
            f"; total layer number: {totals.layers}\n; filament_density: 1.24\n; filament_diameter: 1.75\n"
            f"; max_z_height: {totals.height:.2f}\n; HEADER_BLOCK_END\n\n"
            f"; THUMBNAIL_BLOCK_START\n\n{pictures}; THUMBNAIL_BLOCK_END\n\n"
            "; EXECUTABLE_BLOCK_START\n"
        )
    return (
        f"; generated by PrusaSlicer 2.7.4+linux-x64-GTK3 on {SLICED_AT} UTC\n\n\n{pictures}"
        "; external perimeters extrusion width = 0.45mm\n; perimeters extrusion width = 0.45mm\n"
        "; infill extrusion width = 0.45mm\n; first layer extrusion width = 0.42mm\n\n"
        f"M73 P0 R{totals.seconds // 60}\n"
    )


def _thumbnail(width: int, seed: int) -> str:
    encoded = base64.b64encode(picture(width, seed)).decode()
    lines = [f"; {encoded[at : at + 78]}\n" for at in range(0, len(encoded), 78)]
    return f"; thumbnail begin {width}x{width} {len(encoded)}\n{''.join(lines)}; thumbnail end\n\n"


def _tail(slicer: str, totals: Totals, settings: list[tuple[str, str]]) -> str:
    moves = "G1 E-2 F2100\nM107\nM73 P100 R0\nM104 S0 ; turn off temperature\nM140 S0\nM84 ; disable motors\n"
    if slicer == "cura":
        values = "".join(f"{name} = {value}\\\\n" for name, value in settings)
        whole = '{"global_quality": "[general]\\\\nversion = 4\\\\nname = Normal\\\\n[values]\\\\n' + values + '"}'
        lines = (f";SETTING_3 {whole[at : at + 70]}\n" for at in range(0, len(whole), 70))
        return f"{moves}M82 ;absolute extrusion mode\n;End of Gcode\n{''.join(lines)}"
    weight, cost = f"{totals.filament_g:.2f}", f"{totals.filament_g * 0.025:.2f}"
    summary = (
        f"; filament used [mm] = {totals.filament_mm:.2f}\n; filament used [cm3] = {totals.filament_g / 1.24:.2f}\n"
        f"; filament used [g] = {weight}\n; filament cost = {cost}\n"
        f"; total filament used [g] = {weight}\n; total filament cost = {cost}\n"
        f"; estimated printing time (normal mode) = {totals.duration}\n"
        "; estimated first layer printing time (normal mode) = 1m 30s\n"
    )
    values = "".join(f"; {name} = {value}\n" for name, value in settings)
    if slicer == "orcaslicer":
        summary += f"; total layers count = {totals.layers}\n"
        return f"{moves}; EXECUTABLE_BLOCK_END\n\n{summary}\n; CONFIG_BLOCK_START\n{values}; CONFIG_BLOCK_END\n\n"
    return f"{moves}{summary}\n; prusaslicer_config = begin\n{values}; prusaslicer_config = end\n"


def _settings(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield about 300 settings, those that servers look for in the order of the alphabet among the others."""
    wanted = {
        "bed_temperature": "60", "filament_colour": "#FF8000", "filament_type": "PLA", "fill_density": "15%",
        "filament_settings_id": '"Generic PLA @0.4"', "first_layer_bed_temperature": "60", "first_layer_height": "0.2",
        "first_layer_temperature": "215", "initial_layer_print_height": "0.2", "layer_height": "0.2",
        "nozzle_diameter": "0.4", "nozzle_temperature": "215", "nozzle_temperature_initial_layer": "215",
        "printer_model": "Generic", "printer_notes": "", "temperature": "210",
        "start_gcode": '"PRINT_START BED=[first_layer_bed_temperature] EXTRUDER=[first_layer_temperature]\\n"',
        "end_gcode": '"PRINT_END\\n"',
    }  # fmt: skip
    features = "bridge gap_fill infill ironing perimeter skirt solid_infill support top_infill"
    values = (
        "acceleration angle density distance expand extruder width fan_speed filament_maximum flow_ratio jerk "
        "layers length margin offset overlap pattern seam_gap spacing speed temperature_delta threshold travel_minimum "
        "wipe_length xy_size_compensation z_hop z_offset z_smoothing retract_before retract_after retract_restart_extra"
    )
    for feature in features.split():
        for value in values.split():
            wanted[f"{feature}_{value}"] = f"{rng.uniform(0, 200):.4g}"
    yield from sorted(wanted.items())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.gcode", description=__doc__)
    parser.add_argument("--mb", type=float, default=10, help="size in millions of bytes, met exactly")
    parser.add_argument("--slicer", choices=SLICERS, default="prusaslicer")
    parser.add_argument("--objects", choices=OBJECTS, default="none", help="how objects are marked")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("path", type=Path)
    options = parser.parse_args(arguments)
    write(options.path, round(options.mb * MB), options.slicer, seed=options.seed, objects=options.objects)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
