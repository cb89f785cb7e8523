//! Merge operands: which bits of a chunk to set and which to clear.
//!
//! ```text
//! operand  order of the chunk (1), then runs; or order + 0x80 (1), then masks
//! runs     for each run, ascending: a varint of (blocks since the end of the run before) << 2,
//!          plus 2 if it is longer than one block, plus 1 if it sets; if longer, a varint of its
//!          length - 2
//! masks    the bits to set, then the bits to clear, each as long as the chunk
//! ```
//! A single block takes two to five bytes, in a chunk of 16384 at most four. Masks are for changes
//! whose runs would take more bytes. Every change has exactly one encoding, and any other byte
//! string is refused, so operands can be compared as bytes.
//!
//! # The algebra
//!
//! An operand is a pair (set, clear) of disjoint sets of blocks. It makes `bits` into
//! (bits - clear) + set. Applying p and then q is the same as applying `p then q`, which is
//! set = (p.set - q.clear) + q.set, clear = (p.clear - q.set) + q.clear. This is associative, with
//! the empty operand as its unit, and idempotent: `p then p` is p. For each block the last operand
//! that names it decides, whatever was in between, so replaying the end of a history again, in its
//! order, changes nothing. RocksDB may group operands in any way.
//!
//! The idea of masks for set and clear comes from bitmap merge operators with XOR, such as Ceph's;
//! there, setting a bit twice clears it.

use smallvec::SmallVec;
use unsigned_varint::encode;

use crate::stores::rocks::chunk::{self, ChunkOrder};
use crate::values::extent::Extent;
use crate::values::plain_bitmap::spans;

const MASKS: u8 = 0x80;

/// An encoded operand; a few runs need no heap.
pub(super) type Encoded = SmallVec<[u8; 32]>;

/// A run of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
    set: bool,
}

/// An operand in decoded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Masks {
    order: ChunkOrder,
    set: Vec<u64>,
    clear: Vec<u64>,
}

impl Masks {
    /// The empty operand.
    pub(super) fn new(order: ChunkOrder) -> Self {
        Self { order, set: vec![0; order.words()], clear: vec![0; order.words()] }
    }

    /// The order of the chunk that an encoded operand is for, if it is a valid one.
    pub(super) fn order_of(operand: &[u8]) -> Option<ChunkOrder> {
        ChunkOrder::new(operand.first()? & !MASKS)
    }

    /// The order of the chunk that the operand is for.
    pub(super) fn order(&self) -> ChunkOrder {
        self.order
    }

    /// Makes it `self then operand`. `None` if `operand` is invalid or for another chunk size;
    /// `self` must not be used then.
    pub(super) fn then(&mut self, operand: &[u8]) -> Option<()> {
        let (&head, body) = operand.split_first()?;
        if head & !MASKS != self.order.get() {
            return None;
        }
        match head & MASKS {
            // Runs that are longer than masks would have been encoded as masks.
            0 if body.len() > 2 * self.order.bytes() => None,
            0 => self.then_runs(body),
            _ => self.then_masks(body),
        }
    }

    fn then_runs(&mut self, mut body: &[u8]) -> Option<()> {
        let mut end = 0;
        let mut last = None;
        while !body.is_empty() {
            let (head, rest) = varint(body)?;
            let (more, rest) = if head & 2 == 0 {
                (None, rest)
            } else {
                varint(rest).map(|(more, rest)| (Some(more), rest))?
            };
            let (gap, set) = (head >> 2, head & 1 == 1);
            let len = more.map_or(Some(1), |more| more.checked_add(2))?;
            let start = gap.checked_add(end)?;
            end = start.checked_add(len).filter(|&end| end <= self.order.blocks())?;
            if gap == 0 && last == Some(set) {
                return None; // one run in two pieces
            }
            last = Some(set);
            self.write(Run { start, len, set });
            body = rest;
        }
        Some(())
    }

    fn then_masks(&mut self, body: &[u8]) -> Option<()> {
        if body.len() != 2 * self.order.bytes() {
            return None;
        }
        let (set, clear) = body.split_at(self.order.bytes());
        let mut given = Self::new(self.order);
        given.set.iter_mut().zip(chunk::words(set)).for_each(|(word, bits)| *word = bits);
        given.clear.iter_mut().zip(chunk::words(clear)).for_each(|(word, bits)| *word = bits);
        if given.set.iter().zip(&given.clear).any(|(set, clear)| set & clear != 0) {
            return None;
        }
        if given.runs_len() <= body.len() {
            return None; // would have been encoded as runs
        }
        let bits = given.set.iter().zip(&given.clear);
        for ((set, clear), (set_now, clear_now)) in
            self.set.iter_mut().zip(&mut self.clear).zip(bits)
        {
            *set = *set & !clear_now | set_now;
            *clear = *clear & !set_now | clear_now;
        }
        Some(())
    }

    fn write(&mut self, run: Run) {
        let (into, from) = if run.set {
            (&mut self.set, &mut self.clear)
        } else {
            (&mut self.clear, &mut self.set)
        };
        for (word, mask) in spans(Extent::new(run.start, run.len)) {
            into[word] |= mask;
            from[word] &= !mask;
        }
    }

    /// What the operand makes of `bits`.
    pub(super) fn apply<'m>(
        &'m self,
        bits: impl Iterator<Item = u64> + 'm,
    ) -> impl Iterator<Item = u64> + 'm {
        bits.zip(&self.set).zip(&self.clear).map(|((bits, set), clear)| bits & !clear | set)
    }

    /// The operand's unique encoding.
    pub(super) fn encode(&self) -> Vec<u8> {
        let masks_len = 2 * self.order.bytes();
        let mut bytes = vec![self.order.get()];
        if self.runs_len() > masks_len {
            bytes[0] |= MASKS;
            bytes.extend(self.set.iter().chain(&self.clear).flat_map(|word| word.to_le_bytes()));
            return bytes;
        }
        let mut encoder = Encoder::new(self.order);
        self.runs().for_each(|run| encoder.push(run));
        encoder.bytes.into_vec()
    }

    /// Bytes of the encoded runs.
    fn runs_len(&self) -> usize {
        let mut end = 0;
        self.runs()
            .map(|run| {
                let gap = run.start - end;
                end = run.start + run.len;
                let more = if run.len > 1 { varint_len(run.len - 2) } else { 0 };
                varint_len(gap << 2) + more
            })
            .sum()
    }

    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = next(|word| self.set[word] | self.clear[word], self.order, at)?;
            let (word, bit) = ((start / 64) as usize, start % 64);
            let set = self.set[word] >> bit & 1 == 1;
            let of = if set { &self.set } else { &self.clear };
            let end = next(|word| !of[word], self.order, start).unwrap_or(self.order.blocks());
            at = end;
            Some(Run { start, len: end - start, set })
        })
    }
}

/// The first set bit of `words` from `from` on.
fn next(words: impl Fn(usize) -> u64, order: ChunkOrder, from: u64) -> Option<u64> {
    let first = (from / 64) as usize;
    (first..order.words()).find_map(|index| {
        let bits = words(index) & if index == first { u64::MAX << (from % 64) } else { u64::MAX };
        (bits != 0).then(|| 64 * index as u64 + u64::from(bits.trailing_zeros()))
    })
}

/// The number at the beginning of `bytes`, if its encoding is the unique one, and the rest.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (value, rest) = unsigned_varint::decode::u64(bytes).ok()?;
    (bytes.len() - rest.len() == varint_len(value)).then_some((value, rest))
}

fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Encodes runs, which must be ascending and maximal.
struct Encoder {
    bytes: Encoded,
    end: u64,
}

impl Encoder {
    fn new(order: ChunkOrder) -> Self {
        Self { bytes: SmallVec::from_slice(&[order.get()]), end: 0 }
    }

    fn push(&mut self, run: Run) {
        let mut buffer = encode::u64_buffer();
        let gap = run.start - self.end;
        let head = gap << 2 | u64::from(run.len > 1) << 1 | u64::from(run.set);
        self.bytes.extend_from_slice(encode::u64(head, &mut buffer));
        if run.len > 1 {
            self.bytes.extend_from_slice(encode::u64(run.len - 2, &mut buffer));
        }
        self.end = run.start + run.len;
    }
}

/// The operands of a transaction, by chunk, ascending. `allocated` and `freed` are sorted lists
/// with no block in common, as in a [`Delta`](crate::Delta). Uses the heap only for chunks with
/// many runs.
pub(super) fn operands<'d>(
    order: ChunkOrder,
    allocated: &'d [Extent],
    freed: &'d [Extent],
) -> impl Iterator<Item = (u64, Encoded)> + 'd {
    let mut pieces = Pieces { order, lists: [(allocated, 0), (freed, 0)] };
    let mut ahead = pieces.next();
    std::iter::from_fn(move || {
        let (chunk, run) = ahead.take()?;
        let mut encoder = Encoder::new(order);
        encoder.push(run);
        ahead = pieces.find_map(|(next, run)| {
            if next != chunk {
                return Some((next, run));
            }
            encoder.push(run);
            None
        });
        if encoder.bytes.len() > 1 + 2 * order.bytes() {
            let mut masks = Masks::new(order);
            let whole = masks.then_runs(&encoder.bytes[1..]);
            debug_assert_eq!(whole, Some(()), "just encoded");
            return Some((chunk, SmallVec::from_vec(masks.encode())));
        }
        Some((chunk, encoder.bytes))
    })
}

/// The extents of two lists in ascending order, cut at the borders of chunks.
struct Pieces<'d> {
    order: ChunkOrder,
    /// The extents to set and to clear, with the number of blocks done of each list's first extent.
    lists: [(&'d [Extent], u64); 2],
}

impl Iterator for Pieces<'_> {
    type Item = (u64, Run);

    fn next(&mut self) -> Option<(u64, Run)> {
        let first = |list: &(&[Extent], u64)| list.0.first().map(|extent| extent.start + list.1);
        let [set, clear] = [first(&self.lists[0]), first(&self.lists[1])];
        let is_set = clear.is_none_or(|clear| set.is_some_and(|set| set < clear));
        let (list, done) = &mut self.lists[usize::from(!is_set)];
        let extent = *list.first()?;
        let (start, left) = (extent.start + *done, extent.len - *done);
        let (chunk, within) = (start / self.order.blocks(), start % self.order.blocks());
        let len = left.min(self.order.blocks() - within);
        *done += len;
        if *done == extent.len {
            (*list, *done) = (&list[1..], 0);
        }
        Some((chunk, Run { start: within, len, set: is_set }))
    }
}
