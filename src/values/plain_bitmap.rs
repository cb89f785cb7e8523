//! Bitmaps of a device as plain words, for stores and the public interface. Block i is bit i % 64
//! of word i / 64, 1 = allocated.

use crate::values::error::ConfigError;
use crate::values::extent::Extent;

/// `count` zero words in untouched memory: blocks that stay free cost nothing.
pub(crate) fn zeroed(count: usize) -> Result<Vec<u64>, ConfigError> {
    let mut probe: Vec<u64> = Vec::new();
    if probe.try_reserve_exact(count).is_err() {
        return Err(ConfigError::OutOfMemory { bytes: 8 * count as u64 });
    }
    drop(probe);
    // Not `resize`, which would write to zeroed pages from the system.
    Ok(vec![0; count])
}

/// Fails unless there are as many `words` as a device of `blocks` blocks needs.
pub(crate) fn expect_count(blocks: u64, words: &[u64]) -> Result<(), ConfigError> {
    let (expected, found) = (blocks.div_ceil(64), words.len() as u64);
    if found == expected {
        Ok(())
    } else {
        Err(ConfigError::BitmapLength { blocks, expected, found })
    }
}

/// The bits of word `index` that belong to a device of `blocks` blocks.
pub(crate) fn on_device(blocks: u64, index: usize) -> u64 {
    let count = blocks.saturating_sub(64 * index as u64).min(64);
    u64::MAX.checked_shr(64 - count as u32).unwrap_or(0)
}

/// The first set bit of `words` at or after `from`.
pub(crate) fn first_set(words: &[u64], from: u64) -> Option<u64> {
    let first = (from / 64) as usize;
    words.iter().enumerate().skip(first).find_map(|(index, &word)| {
        let word = if index == first { word & u64::MAX << (from % 64) } else { word };
        (word != 0).then(|| 64 * index as u64 + u64::from(word.trailing_zeros()))
    })
}

/// The words that `extent` touches, with its bits in each.
pub(crate) fn spans(extent: Extent) -> impl Iterator<Item = (usize, u64)> {
    let Extent { start, len } = extent;
    let end = start + len;
    (start / 64..end.div_ceil(64)).map(move |word| {
        let low = start.saturating_sub(64 * word);
        let high = (end - 64 * word).min(64);
        (word as usize, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_an_extent_exactly() {
        let blocks = |extent| {
            let ones = |(word, mask): (usize, u64)| {
                (0..64)
                    .filter(move |bit| mask >> bit & 1 == 1)
                    .map(move |bit| 64 * word as u64 + bit)
            };
            spans(extent).flat_map(ones).collect::<Vec<u64>>()
        };
        for (start, len) in [(0, 1), (63, 1), (63, 2), (0, 64), (64, 64), (10, 200), (127, 66)] {
            let expected: Vec<u64> = (start..start + len).collect();
            assert_eq!(blocks(Extent::new(start, len)), expected);
        }
    }

    #[test]
    fn the_first_set_bit_behind_another_is_found() {
        let words = [0, 0b1001 << 20, 0, 1];
        for (from, found) in [(0, 84), (84, 84), (85, 87), (88, 192), (192, 192)] {
            assert_eq!(first_set(&words, from), Some(found), "{from}");
        }
        assert_eq!(first_set(&words, 193), None);
        assert_eq!(first_set(&words, 256), None);
    }

    #[test]
    fn a_device_ends_within_a_word() {
        let expected = [(0, 0), (1, 1), (63, u64::MAX >> 1), (64, u64::MAX), (1000, u64::MAX)];
        for (blocks, mask) in expected {
            assert_eq!(on_device(blocks, 0), mask);
            assert_eq!(on_device(640 + blocks, 10), mask);
        }
        assert_eq!(on_device(5, 1), 0);
    }
}
