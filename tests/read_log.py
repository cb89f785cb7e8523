#!/usr/bin/env python3
"""Reads a freemap log of version 2 from docs/format.md alone, and prints its state as JSON.

Usage: read_log.py FILE [OFFSET LENGTH]

Prints blocks, lsn, position, allocated, and the allocated extents. Exits with 1, and a reason, if the log
is damaged.
"""

import json
import struct
import sys

PAGE = 4096
RANGE = 32768
PLACES = (0, 131072)


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def later(a, b, bits):
    return 0 < (a - b) % (1 << bits) < 1 << (bits - 1)


class Damaged(Exception):
    pass


def superblock(area):
    newest = None
    for place in PLACES:
        for slot in range(2):
            page = area[place + slot * PAGE :][:PAGE]
            if len(page) < PAGE or page[:8] != b"freemap\n":
                continue
            if struct.unpack_from("<I", page, 4092)[0] != crc32c(page[:4092]):
                continue
            major, _, _, _, incompatible = struct.unpack_from("<HHIII", page, 8)
            if major != 2 or incompatible:
                raise Damaged(f"version {major}, features {incompatible:#x}")
            generation = struct.unpack_from("<Q", page, 80)[0]
            if generation % 2 != slot:
                continue
            if newest is None or later(generation, newest["generation"], 64):
                newest = parse_superblock(page, generation)
    if newest is None:
        raise Damaged("no superblock")
    return newest


def parse_superblock(page, generation):
    incarnation, count = struct.unpack_from("<II", page, 88)
    return {
        "generation": generation,
        "uuid": page[24:40],
        "sector": 1 << page[43],
        "authority": page[44],
        "blocks": struct.unpack_from("<Q", page, 48)[0],
        "ring_start": struct.unpack_from("<Q", page, 64)[0],
        "ring_len": struct.unpack_from("<Q", page, 72)[0],
        "incarnation": incarnation,
        "tail": struct.unpack_from("<QQQQQI", page, 96),
        "regions": [struct.unpack_from("<IIQ", page, 144 + 16 * i) for i in range(count)],
        "directory": struct.unpack_from("<I", page, 1176)[0],
    }


def image(fields):
    base, crc, free, longest, state, slot = fields
    return {"base": base, "crc": crc, "free": free, "state": state, "slot": slot}


def directory(area, sb):
    """The images that the directory names, by range, and where each range's slots lie."""
    candidates, slots, counted, number = {}, {}, [], 0
    for first, ranges, start in sb["regions"]:
        pages = -(-ranges // 127)
        second = max(pages + 2 * ranges, 17)
        for index in range(pages):
            copies = []
            for copy in (0, second):
                page = area[start + (copy + index) * PAGE :][:PAGE]
                crc, magic, of, previous, sequence, identity, stamp = struct.unpack_from(
                    "<I4sIIQII", page, 0
                )
                intact = crc == crc32c(page[4:]) and magic == b"fmDP" and of == number
                if intact and identity == int.from_bytes(sb["uuid"][4:8], "big"):
                    copies.append((sequence, crc, previous, stamp, page))
            if not copies:
                raise Damaged(f"directory page {number}")
            copies.sort(key=lambda copy: copy[0])
            _, crc, previous, stamp, _ = copies[-1]
            generation = sb["generation"] % (1 << 32)
            if later(stamp, generation, 32):
                raise Damaged("superblocks were lost")
            counted.append(previous if stamp == generation else crc)
            for entry in range(min(127, ranges - 127 * index)):
                of_range = first + 127 * index + entry
                candidates[of_range] = [
                    image(struct.unpack_from("<QIIIBB", page, 32 + 32 * entry))
                    for _, _, _, _, page in copies
                ]
                within = 127 * index + entry
                slots[of_range] = [start + (pages + s * ranges + within) * PAGE for s in range(2)]
            number += 1
    if crc32c(b"".join(struct.pack("<I", crc) for crc in counted)) != sb["directory"]:
        raise Damaged("directory pages were lost")
    return candidates, slots


def ring(area, sb, position, length):
    at, start, end = position % sb["ring_len"], sb["ring_start"], sb["ring_start"] + sb["ring_len"]
    first = area[start + at : min(start + at + length, end)]
    return first + area[start : start + length - len(first)]


def frame(area, sb, position):
    """The intact frame at `position`: header fields, records, its CRC."""
    header = struct.unpack("<4sIQQQQQIIII", ring(area, sb, position, 64))
    magic, length, at, records = header[0], header[1], header[3], header[9]
    sound = magic == b"fmLF" and at == position and 68 + records <= length <= sb["ring_len"]
    if not sound or length % sb["sector"]:
        return None
    data = ring(area, sb, position, 68 + records)
    crc = crc32c(data[:-4])
    if struct.unpack("<I", data[-4:])[0] != crc:
        return None
    return header, data[64:-4], crc


def read_log(area, sb):
    """The frames that count, each as (allocated, records)."""
    position, sequence, lsn, _, _, previous = sb["tail"]
    end, incarnation, frames = position + sb["ring_len"], None, []
    while position < end:
        found = frame(area, sb, position)
        if found is None:
            break
        (_, length, number, _, before, _, allocated, chain, life, _, flags), records, crc = found
        fits = number == sequence and before == lsn and chain == previous
        fits = fits and not later(life, sb["incarnation"], 32)
        if not fits or incarnation is not None and later(incarnation, life, 32):
            break
        frames.append((allocated, records, flags & 1))
        lsn += sum(1 for kind, *_ in parse(records) if kind == 4)
        position, sequence, previous, incarnation = position + length, sequence + 1, crc, life
    at = position
    while at < end:
        found = frame(area, sb, at)
        if found and found[0][2] > sequence and found[0][5] >= sequence:
            raise Damaged(f"the frame at position {position}")
        at += sb["sector"]
    while frames and not frames[-1][2]:
        frames.pop()
    return frames


def parse(records):
    """Records as (type, flags, range, body)."""
    at, out = 0, []
    while at < len(records):
        kind, flags, count, of_range = struct.unpack_from("<BBHI", records, at)
        lengths = {1: 4 * count, 2: 8, 3: 24, 4: 0, 5: 8}
        length = flags << 16 | count if kind >= 128 else lengths.get(kind)
        if length is None or at + 8 + length > len(records):
            raise Damaged("a record")
        out.append((kind, flags, of_range, records[at + 8 : at + 8 + length]))
        at += 8 + length
    return out


def load(area, sb, images, places):
    """The newest intact image of a range: its base, and its blocks as a number."""
    images = sorted(images, key=lambda image: image["base"], reverse=True)
    for known in images[:1] if sb["authority"] == 2 else images:
        if known["state"] == 0:
            return known["base"], 0
        if known["state"] == 1:
            return known["base"], (1 << RANGE) - 1
        page = area[places[known["slot"]] :][:PAGE]
        if crc32c(page) == known["crc"]:
            return known["base"], int.from_bytes(page, "little")
    raise Damaged("an image")


def change(bits, start, length, free):
    mask = ((1 << length) - 1) << start
    if bits & mask != (mask if free else 0):
        raise Damaged("a record contradicts the state")
    return bits ^ mask


def state(area):
    sb = superblock(area)
    images, places = directory(area, sb)
    frames = read_log(area, sb)
    _, _, tail_lsn, allocated, engine, _ = sb["tail"]
    for _, records, _ in frames:
        for kind, _, of_range, body in parse(records):
            if kind == 3:
                base, crc, free, longest, slot, form, _ = struct.unpack("<QIIIBBH", body)
                if base >= tail_lsn:
                    images[of_range].append(image((base, crc, free, longest, form, slot)))
    ranges = {r: load(area, sb, images[r], places[r]) for r in images}
    lsn = tail_lsn
    for total, records, _ in frames:
        allocated = total
        for kind, flags, of_range, body in parse(records):
            if kind == 4:
                lsn += 1
            elif kind == 5:
                engine = struct.unpack("<Q", body)[0]
            elif kind == 1:
                for (item,) in struct.iter_unpack("<I", body):
                    base, bits = ranges[of_range]
                    if lsn + 1 > base:
                        span = item & 0x7FFF, (item >> 15 & 0x7FFF) + 1
                        ranges[of_range] = base, change(bits, *span, item >> 30 & 1)
            elif kind == 2:
                for covered in range(of_range, of_range + struct.unpack_from("<I", body)[0]):
                    base, bits = ranges[covered]
                    if lsn + 1 > base:
                        ranges[covered] = base, change(bits, 0, RANGE, flags & 1)
    found = extents(ranges)
    if sum(length for _, length in found) != allocated:
        raise Damaged("the count of allocated blocks")
    if found and sum(found[-1]) > sb["blocks"]:
        raise Damaged("blocks behind the end")
    return {
        "blocks": sb["blocks"],
        "lsn": lsn,
        "position": engine,
        "allocated": allocated,
        "extents": found,
    }


def extents(ranges):
    found = []
    for of_range in sorted(ranges):
        bits, at = ranges[of_range][1], of_range * RANGE
        while bits:
            skip = (bits & -bits).bit_length() - 1
            bits >>= skip
            length = (~bits & bits + 1).bit_length() - 1
            bits >>= length
            start, at = at + skip, at + skip + length
            if found and sum(found[-1]) == start:
                found[-1][1] += length
            else:
                found.append([start, length])
    return found


def main():
    path, *part = sys.argv[1:]
    with open(path, "rb") as file:
        area = file.read()
    if part:
        area = area[int(part[0]) :][: int(part[1])]
    try:
        print(json.dumps(state(area)))
    except Damaged as reason:
        sys.exit(f"damaged: {reason}")


main()
