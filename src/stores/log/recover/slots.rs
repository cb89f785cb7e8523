//! The two image slots of a range, and the state of a range while it is replayed.

use super::loader::Loader;
use crate::stores::log::error::LogError;
use crate::stores::log::layout::Layout;
use crate::stores::log::record::{Image, RANGE_BLOCKS, State};
use zerocopy::IntoBytes;

/// The state of a range while it is replayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangeState {
    pub(super) allocated: u32,
    pub(super) words: Words,
}

/// How the words of a range relate to its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// The words are the state.
    Fresh,
    /// All blocks are as `allocated` says; the words are zero, and their memory may be untouched.
    Zero,
    /// All blocks are as `allocated` says; the words are undefined.
    Stale,
}

/// What is known of the page in an image slot: enough to tell whether an image means this page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    crc: u32,
    allocated: u32,
}

/// The two image slots of a range. Each is read once to see what is there; the one that counts may be
/// read again, if the other was read since.
#[derive(Default)]
pub(super) struct Slots {
    pages: [Option<Page>; 2],
    /// The slot whose page the words are.
    loaded: Option<u8>,
}

impl Slots {
    /// The state of `range` in `image`, if that is intact, with its words in `words`.
    pub(super) fn load(
        &mut self,
        loader: &Loader,
        layout: &Layout,
        range: u32,
        words: &mut [u64],
        image: &Image,
    ) -> Result<Option<RangeState>, LogError> {
        let whole = RANGE_BLOCKS as u32;
        let unread = self.loaded.is_none();
        let uniform = |allocated| {
            Some(RangeState { allocated, words: if unread { Words::Zero } else { Words::Stale } })
        };
        match image.state {
            State::AllFree => return Ok(uniform(0)),
            State::AllUsed => return Ok(uniform(whole)),
            State::Page => {}
        }
        let page = match self.pages[usize::from(image.slot)] {
            Some(page) => page,
            None => self.read(loader, layout, range, words, image.slot)?,
        };
        if page.crc != image.crc || whole - page.allocated != image.free {
            return Ok(None);
        }
        // Another page than a moment ago, if the device does not keep what it has.
        if self.loaded != Some(image.slot)
            && self.read(loader, layout, range, words, image.slot)? != page
        {
            return Ok(None);
        }
        Ok(Some(RangeState { allocated: page.allocated, words: Words::Fresh }))
    }

    fn read(
        &mut self,
        loader: &Loader,
        layout: &Layout,
        range: u32,
        words: &mut [u64],
        slot: u8,
    ) -> Result<Page, LogError> {
        let offset = layout.image_offset(range, slot);
        loader.read(offset, words.as_mut_bytes())?;
        let crc = crc32c::crc32c(words.as_bytes());
        words.iter_mut().for_each(|word| *word = u64::from_le(*word));
        let allocated = words.iter().map(|word| word.count_ones()).sum();
        let page = Page { crc, allocated };
        (self.pages[usize::from(slot)], self.loaded) = (Some(page), Some(slot));
        Ok(page)
    }
}
