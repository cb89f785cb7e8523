//! Tests of what lies below the public face: the algebra of operands, the merge operator, damage, sizes
//! in doubt.
//!
//! The laws of operands (module `operand`), for any operands p, q, r of one chunk and any bits b:
//! 1. (p then q) then r = p then (q then r), as bytes;
//! 2. p then p = p, and p then nothing = p = nothing then p;
//! 3. applying p, then q, to b = applying (p then q) to b;
//! 4. replaying any end of a history changes nothing.

use proptest::collection::vec;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::chunk::{self, ChunkOrder};
use super::merge::{combine, merge};
use super::meta::Meta;
use super::open::write_meta;
use super::operand::{Encoded, Masks, operands};
use super::{CreateOptions, OpenOptions, RocksFreelist};
use crate::values::extent::Extent;

const ORDER: u8 = 8;
const BLOCKS: u64 = 1 << ORDER;
const KEY: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 7];

/// One block at a time: what is set, cleared or left alone.
type Model = Vec<Option<bool>>;

fn encode(model: &Model) -> Vec<u8> {
    let extents = |kind: bool| {
        let mut list: Vec<Extent> = Vec::new();
        for (block, _) in model.iter().enumerate().filter(|(_, change)| **change == Some(kind)) {
            match list.last_mut() {
                Some(last) if last.start + last.len == block as u64 => last.len += 1,
                _ => list.push(Extent::new(block as u64, 1)),
            }
        }
        list
    };
    let order = ChunkOrder::new(ORDER).unwrap();
    let (allocated, freed) = (extents(true), extents(false));
    let mut found: Vec<(u64, Encoded)> = operands(order, &allocated, &freed).collect();
    match found.pop() {
        Some((number, operand)) => {
            assert_eq!((number, found.len()), (0, 0));
            operand.to_vec()
        }
        None => Masks::new(order).encode(),
    }
}

fn then(first: &Model, second: &Model) -> Model {
    first.iter().zip(second).map(|(&first, &second)| second.or(first)).collect()
}

/// Runs of any length, so that all encodings come up.
fn model() -> impl Strategy<Value = Model> {
    let run = (prop_oneof![Just(None), Just(Some(true)), Just(Some(false))], 1usize..40);
    let ragged = (prop_oneof![Just(None), Just(Some(true)), Just(Some(false))], 1usize..3);
    prop_oneof![vec(run, 1..12), vec(ragged, 100..256)].prop_map(|runs| {
        let mut model: Model =
            runs.into_iter().flat_map(|(change, len)| std::iter::repeat_n(change, len)).collect();
        model.resize(BLOCKS as usize, None);
        model
    })
}

fn bits() -> impl Strategy<Value = Vec<u64>> {
    vec(any::<u64>(), BLOCKS as usize / 64)
}

fn apply(bits: &[u64], model: &Model) -> Vec<u64> {
    let mut bits = bits.to_vec();
    for (block, change) in model.iter().enumerate() {
        let bit = 1 << (block % 64);
        match change {
            Some(true) => bits[block / 64] |= bit,
            Some(false) => bits[block / 64] &= !bit,
            None => {}
        }
    }
    bits
}

/// Merges `list` in any way RocksDB might: splits it here and there, combines some neighbours.
fn any_grouping(list: &[Vec<u8>], rng: &mut Pcg64Mcg) -> Vec<Vec<u8>> {
    let mut groups = list.to_vec();
    while groups.len() > 1 && rng.random_bool(0.8) {
        let from = rng.random_range(0..groups.len() - 1);
        let to = rng.random_range(from + 2..=groups.len());
        let one = combine(groups[from..to].iter().map(Vec::as_slice)).unwrap();
        groups.splice(from..to, [one]);
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_grouping_of_the_same_operands_gives_the_same_value(
        history in vec(model(), 1..10),
        base in proptest::option::of(bits()),
        seed: u64,
        replayed in 0usize..10,
    ) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let list: Vec<Vec<u8>> = history.iter().map(encode).collect();
        let value = base.as_ref().map(|bits| chunk::encode(&KEY, bits.iter().copied()));
        let start = base.unwrap_or_else(|| vec![0; BLOCKS as usize / 64]);
        let expected = history.iter().fold(start, |bits, model| apply(&bits, model));
        let expected = chunk::encode(&KEY, expected);

        // Full merges may stop half way, too: of a value and some operands comes a new value.
        let groups = any_grouping(&list, &mut rng);
        let cut = rng.random_range(0..groups.len());
        let slices = |groups: &[Vec<u8>]| groups.to_vec();
        let half = (cut > 0).then(|| merge(&KEY, value.as_deref(), slices(&groups[..cut]).iter().map(Vec::as_slice)));
        let whole = merge(&KEY, half.as_deref().or(value.as_deref()), groups[cut..].iter().map(Vec::as_slice));
        prop_assert_eq!(&whole, &expected);

        // As bytes, whatever the grouping.
        let all = combine(list.iter().map(Vec::as_slice)).unwrap();
        prop_assert_eq!(&combine(groups.iter().map(Vec::as_slice)).unwrap(), &all);
        prop_assert_eq!(&all, &encode(&history[1..].iter().fold(history[0].clone(), |sum, next| then(&sum, next))));

        // Once more from anywhere on.
        let suffix = &list[replayed.min(list.len() - 1)..];
        prop_assert_eq!(&merge(&KEY, Some(&whole), suffix.iter().map(Vec::as_slice)), &expected);
        prop_assert_eq!(&merge(&KEY, Some(&whole), groups[cut..].iter().map(Vec::as_slice)), &expected);
    }

    #[test]
    fn operands_are_idempotent_with_a_unit(p in model()) {
        let (p, unit) = (encode(&p), Masks::new(ChunkOrder::new(ORDER).unwrap()).encode());
        for list in [vec![&p], vec![&p, &p], vec![&p, &unit], vec![&unit, &p]] {
            prop_assert_eq!(&combine(list.into_iter().map(Vec::as_slice)).unwrap(), &p);
        }
    }

    #[test]
    fn bytes_are_the_one_encoding_of_an_operand_or_none(bytes in vec(any::<u8>(), 0..40), runs: bool) {
        let mut bytes = bytes;
        if let (true, Some(head)) = (runs, bytes.first_mut()) {
            *head = ORDER;
        }
        if let Some(again) = combine([bytes.as_slice()].into_iter()) {
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_damaged_byte_of_an_operand_is_never_taken_for_another_chunk_size(p in model(), at: usize, bit in 0u8..8) {
        let mut operand = encode(&p);
        let at = at % operand.len();
        operand[at] ^= 1 << bit;
        if let Some(masks) = Masks::order_of(&operand).map(Masks::new) {
            let mut masks = masks;
            if masks.then(&operand).is_some() {
                prop_assert_eq!(masks.encode(), operand);
            }
        }
    }

    #[test]
    fn damage_stays_damage(p in model(), base in bits(), at: usize, flip in 1u8..=255, cut: bool) {
        let operand = encode(&p);
        let mut value = chunk::encode(&KEY, base);
        if cut {
            value.truncate(at % value.len());
        } else {
            let at = at % value.len();
            value[at] ^= flip;
        }
        let merged = merge(&KEY, Some(&value), [operand.as_slice(), &operand].into_iter());
        prop_assert!(chunk::decode(&KEY, &merged).is_err());
        let merged = merge(&KEY, Some(&merged), [operand.as_slice()].into_iter());
        prop_assert!(chunk::decode(&KEY, &merged).is_err());
    }
}

#[test]
fn a_single_block_takes_a_few_bytes() {
    for (order, block, len) in
        [(12, 31, 2), (12, 32, 3), (12, 4095, 3), (15, 32767, 4), (20, 1 << 19, 5)]
    {
        let order = ChunkOrder::new(order).unwrap();
        let extent = [Extent::new(5 * order.blocks() + block, 1)];
        let found: Vec<(u64, Encoded)> = operands(order, &extent, &[]).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.len()), (5, len), "{order:?}, block {block}");
    }
}

#[test]
fn a_change_of_every_second_block_takes_masks() {
    let model: Model = (0..BLOCKS).map(|block| (block % 2 == 0).then_some(true)).collect();
    assert_eq!(encode(&model).len(), 1 + 2 * BLOCKS as usize / 8);
}

#[test]
fn operands_of_long_extents_are_cut_at_chunks() {
    let order = ChunkOrder::new(ORDER).unwrap();
    let allocated = [Extent::new(10, 2), Extent::new(BLOCKS - 6, 2 * BLOCKS)];
    let freed = [Extent::new(0, 10), Extent::new(12, 1), Extent::new(5 * BLOCKS - 1, 2)];
    let found: Vec<u64> = operands(order, &allocated, &freed).map(|(number, _)| number).collect();
    assert_eq!(found, [0, 1, 2, 4, 5]);
}

#[test]
fn what_is_no_operand_damages_the_value_it_is_merged_into() {
    let sound = chunk::encode(&KEY, [1, 2, 3, 4]);
    let order_9 = [9u8, 1 << 2 | 1];
    // A varint of ten bytes, of which the last has bits that do not fit.
    let long = [ORDER, 0x85, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
    for operand in [&b""[..], &long, b"\x00", b"\xff\xff", &[ORDER, 0x80], &[ORDER, 1, 1], &order_9]
    {
        let merged = merge(&KEY, Some(&sound), [operand].into_iter());
        assert!(chunk::decode(&KEY, &merged).is_err(), "{operand:?}");
        if operand != order_9 {
            let merged = merge(&KEY, None, [operand].into_iter());
            assert!(chunk::decode(&KEY, &merged).is_err(), "{operand:?}");
        }
    }
    // A value under another key than its own.
    assert_eq!(chunk::decode(&[0; 8], &sound), Err(chunk::Flaw::Checksum));
}

/// A write of the description that failed was carried out all the same: whoever commits next makes it
/// right first, so that a restart finds the blocks of what was committed.
#[test]
fn a_size_in_doubt_is_settled_before_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let open = || -> std::sync::Arc<rocksdb::DB> {
        RocksFreelist::open_database(dir.path(), &options, "free", vec![]).unwrap().into()
    };
    let chunks = CreateOptions::new().chunk_blocks(64);
    let opened = RocksFreelist::create(open(), "free", 1000, &chunks).unwrap();
    let smaller = Meta { blocks: 500, ..*opened.freelist.meta() };
    write_meta(&opened.freelist.inner.db, "free", &smaller).unwrap();
    opened.freelist.inner.unsettled.set(1);

    let mut transaction = opened.allocator.begin();
    transaction.mark_allocated(Extent::new(900, 1)).unwrap();
    transaction.commit(&opened.freelist).unwrap();
    assert_eq!(opened.freelist.inner.unsettled.get(), 0);
    drop(opened);
    let opened = RocksFreelist::open(open(), "free", &OpenOptions::new()).unwrap();
    assert_eq!((opened.report.blocks, opened.report.allocated), (1000, 1));

    // A change that is tried again settles it, too, also to the size that there is.
    write_meta(&opened.freelist.inner.db, "free", &smaller).unwrap();
    opened.freelist.inner.unsettled.set(1);
    opened.freelist.grow(&opened.allocator, 1000).unwrap();
    assert_eq!(opened.freelist.inner.unsettled.get(), 0);
    drop(opened);
    let opened = RocksFreelist::open(open(), "free", &OpenOptions::new()).unwrap();
    assert_eq!(opened.report.blocks, 1000);
}
