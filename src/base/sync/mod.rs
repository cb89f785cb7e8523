//! The only place that chooses atomics and names memory orderings.
//!
//! Every protocol access is `SeqCst`, loads and failed CASes included, so that the proofs in
//! `docs/protocol.md` may reason in interleavings. The exceptions are what the owner of a queue node
//! writes into it, and words with one writer ([`AtomicWord::put`], [`AtomicWord::peek`]). Loom treats `SeqCst` accesses as `AcqRel` but models `fence(SeqCst)`, so under
//! `--cfg loom` each access is an `AcqRel` access followed by that fence; a mutant can take the
//! fence of a [`Site`] away. Of the accesses to epochs and pins, only the three that need a fence
//! have one.

#[cfg(not(loom))]
#[path = "orderings.rs"]
mod access;
#[cfg(loom)]
#[path = "loom_orderings.rs"]
mod access;
pub(crate) mod blocking;
mod counter;
#[cfg(all(test, not(loom)))]
pub(crate) mod meanwhile;
mod site;
mod slot;
mod turnstile;
#[cfg(all(test, not(loom)))]
pub(crate) mod work;

pub(crate) use counter::Counter;
pub(crate) use site::Site;
pub(crate) use slot::Slot;
pub(crate) use turnstile::Turnstile;

use crate::base::heap::OutOfMemory;
use crate::base::word::Word;

/// An atomic word of the index.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes), repr(transparent))]
pub(crate) struct AtomicWord<W: Atom> {
    raw: W::Raw,
    #[cfg(loom)]
    turn: Turn,
}

/// Loom considers only the last access to an atomic when it decides which thread could have gone
/// first: in a load and a CAS, the thread's own load hides an earlier one by another thread, and
/// some interleavings are never tried (tokio-rs/loom, issues 166 and 392). So an access changes
/// this atomic first. That multiplies the executions; only epochs, pins and the links of the queue
/// do it, and the summary in small scenarios.
#[cfg(loom)]
#[derive(Debug, Default)]
struct Turn(loom::sync::atomic::AtomicU8);

/// Gives accesses to the summary a turn, too, for the rest of the process.
#[cfg(loom)]
pub(crate) fn turns_in_the_summary() {
    TURNS_IN_THE_SUMMARY.store(true, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(loom)]
static TURNS_IN_THE_SUMMARY: std::sync::atomic::AtomicBool =
    std::sync::atomic::AtomicBool::new(false);

#[cfg(loom)]
impl Turn {
    fn take(&self, site: Site) {
        use Site::*;
        let with_turn = [
            EpochLook,
            EpochStamp,
            FloorLook,
            EpochAdvance,
            PinCount,
            PinLook,
            Unpin,
            BeganLook,
            BeganChange,
            Link,
        ];
        let in_the_summary = [HasEnsure, HasSet, HasClear, GuardChange].contains(&site)
            && TURNS_IN_THE_SUMMARY.load(std::sync::atomic::Ordering::Relaxed);
        if with_turn.contains(&site) || in_the_summary {
            self.0.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl<W: Atom> AtomicWord<W> {
    /// A new atomic that holds `value`.
    pub(crate) fn new(value: W) -> Self {
        Self {
            raw: W::Raw::new(value),
            #[cfg(loom)]
            turn: Turn::default(),
        }
    }

    /// `count` zero words, in untouched memory.
    pub(crate) fn zeros(count: usize) -> Result<Vec<Self>, OutOfMemory> {
        #[cfg(not(loom))]
        return crate::base::heap::zeroed(count);
        #[cfg(loom)]
        Ok((0..count).map(|_| Self::new(W::ZERO)).collect())
    }

    /// The atomic, for one access.
    #[cfg(not(loom))]
    #[inline(always)]
    fn raw(&self, _: Site) -> &W::Raw {
        #[cfg(test)]
        {
            work::count();
            meanwhile::arrive();
        }
        &self.raw
    }

    #[cfg(loom)]
    fn raw(&self, site: Site) -> &W::Raw {
        self.turn.take(site);
        &self.raw
    }

    /// Reads the word.
    #[inline(always)]
    pub(crate) fn load(&self, site: Site) -> W {
        self.raw(site).load(site)
    }

    /// Replaces `current` by `new`, or returns the word found instead.
    #[inline(always)]
    pub(crate) fn compare_exchange(&self, current: W, new: W, site: Site) -> Result<W, W> {
        self.raw(site).compare_exchange(current, new, site)
    }

    /// Sets the bits of `bits` and returns the word before.
    #[inline(always)]
    pub(crate) fn fetch_or(&self, bits: W, site: Site) -> W {
        self.raw(site).fetch_or(bits, site)
    }

    /// Keeps only the bits of `bits` and returns the word before.
    #[inline(always)]
    pub(crate) fn fetch_and(&self, bits: W, site: Site) -> W {
        self.raw(site).fetch_and(bits, site)
    }

    /// Adds `value`, wrapping, and returns the word before.
    #[inline(always)]
    pub(crate) fn fetch_add(&self, value: W, site: Site) -> W {
        self.raw(site).fetch_add(value, site)
    }

    /// Replaces the word by what `next` makes of it, unless that is `None`; returns the word found.
    /// Repeats only when other threads changed the word.
    #[inline]
    pub(crate) fn update(&self, site: Site, next: impl Fn(W) -> Option<W>) -> Result<W, W> {
        let mut current = self.load(site);
        loop {
            let Some(new) = next(current) else { return Err(current) };
            match self.compare_exchange(current, new, site) {
                Ok(_) => return Ok(current),
                Err(now) => current = now,
            }
        }
    }

    /// Reads a word that one thread at a time writes, as that thread last left it or before.
    #[inline(always)]
    pub(crate) fn peek(&self) -> W {
        self.raw.peek()
    }

    /// Overwrites a word as its only writer. A thread that reads it learns of no other write by
    /// that.
    #[inline(always)]
    pub(crate) fn put(&self, value: W) {
        self.raw.put(value);
    }

    /// Overwrites the word: one that other threads only read meanwhile, or a fault to be modelled.
    #[inline(always)]
    pub(crate) fn store(&self, value: W, site: Site) {
        self.raw(site).store(value, site);
    }
}

impl AtomicWord<u64> {
    /// `words`, before they are shared, as plain integers. Empty under loom, whose atomics are no
    /// words.
    pub(crate) fn plain(words: &mut [Self]) -> &mut [u64] {
        #[cfg(not(loom))]
        return {
            use zerocopy::{FromBytes, IntoBytes};
            <[u64]>::mut_from_bytes(words.as_mut_bytes()).unwrap_or_default()
        };
        #[cfg(loom)]
        {
            let _ = words;
            &mut []
        }
    }
}

#[cfg(loom)]
pub use std::any::Any as Zeroable;
/// Types of which zero bytes are a value; loom's atomics are none.
#[cfg(not(loom))]
pub(crate) use zerocopy::FromZeros as Zeroable;

/// A word that an [`AtomicWord`] can hold.
pub(crate) trait Atom: Word {
    /// The atomic type behind it.
    type Raw: RawAtomic<Self>;
}

/// What [`AtomicWord`] needs from the atomic type behind it.
pub(crate) trait RawAtomic<W>: Zeroable + Send + Sync + std::fmt::Debug {
    /// See [`AtomicWord::new`].
    fn new(value: W) -> Self;
    /// See [`AtomicWord::load`].
    fn load(&self, site: Site) -> W;
    /// See [`AtomicWord::store`].
    fn store(&self, value: W, site: Site);
    /// See [`AtomicWord::peek`].
    fn peek(&self) -> W;
    /// See [`AtomicWord::put`].
    fn put(&self, value: W);
    /// See [`AtomicWord::compare_exchange`].
    fn compare_exchange(&self, current: W, new: W, site: Site) -> Result<W, W>;
    /// See [`AtomicWord::fetch_or`].
    fn fetch_or(&self, bits: W, site: Site) -> W;
    /// See [`AtomicWord::fetch_and`].
    fn fetch_and(&self, bits: W, site: Site) -> W;
    /// See [`AtomicWord::fetch_add`].
    fn fetch_add(&self, value: W, site: Site) -> W;
}

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32 as RawU32, AtomicU64 as RawU64};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32 as RawU32, AtomicU64 as RawU64};

macro_rules! raw_atomic {
    ($word:ty, $raw:ty) => {
        impl Atom for $word {
            type Raw = $raw;
        }

        impl RawAtomic<$word> for $raw {
            fn new(value: $word) -> Self {
                <$raw>::new(value)
            }
            #[inline(always)]
            fn load(&self, site: Site) -> $word {
                let value = <$raw>::load(self, access::load(site));
                access::after(site);
                value
            }
            #[inline(always)]
            fn store(&self, value: $word, site: Site) {
                <$raw>::store(self, value, access::store(site));
                access::after(site);
            }
            #[inline(always)]
            fn peek(&self) -> $word {
                <$raw>::load(self, access::PLAIN)
            }
            #[inline(always)]
            fn put(&self, value: $word) {
                <$raw>::store(self, value, access::PLAIN);
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $word,
                new: $word,
                site: Site,
            ) -> Result<$word, $word> {
                let (won, lost) = (access::change(site), access::load(site));
                let result = <$raw>::compare_exchange(self, current, new, won, lost);
                access::after(site);
                result
            }
            #[inline(always)]
            fn fetch_or(&self, bits: $word, site: Site) -> $word {
                let before = <$raw>::fetch_or(self, bits, access::change(site));
                access::after(site);
                before
            }
            #[inline(always)]
            fn fetch_and(&self, bits: $word, site: Site) -> $word {
                let before = <$raw>::fetch_and(self, bits, access::change(site));
                access::after(site);
                before
            }
            #[inline(always)]
            fn fetch_add(&self, value: $word, site: Site) -> $word {
                let before = <$raw>::fetch_add(self, value, access::change(site));
                access::after(site);
                before
            }
        }
    };
}

raw_atomic!(u32, RawU32);
raw_atomic!(u64, RawU64);
