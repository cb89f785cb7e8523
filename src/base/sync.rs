//! The one place that chooses atomics and names memory orderings.
//!
//! Every protocol access is `SeqCst`, loads and failed CASes included, so that the proofs in
//! ARCHITECTURE.md may reason in interleavings; but for what the owner of a node of a queue writes into it. Loom treats `SeqCst` accesses as `AcqRel` but does
//! model `fence(SeqCst)`, so under `--cfg loom` each access is an `AcqRel` access followed by that
//! fence; the fence is what a [`Site`] lets a mutant take away. Of the accesses to epochs and pins
//! only the three have a fence that need one.

use crate::base::heap::OutOfMemory;
use crate::base::word::Word;

/// Where in the protocol an access stands. `docs/ordering.md` lists what each one pairs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// Reading leaf words to search, claim or verify.
    LeafLook,
    /// Taking blocks in a leaf word.
    LeafClaim,
    /// Giving blocks back in a leaf word that does not become entirely free.
    LeafRelease,
    /// Giving blocks back in a leaf word that becomes entirely free: sibling words are read next.
    LeafReleaseFull,
    /// Reading the sibling words after a release.
    Sibling,
    /// Reading a summary bit in order to set it if it is clear.
    HasEnsure,
    /// Setting a summary bit.
    HasSet,
    /// Reading a summary word to search.
    HasLook,
    /// Clearing a summary bit.
    HasClear,
    /// Reading a guard word.
    GuardLook,
    /// Taking or releasing a guard bit.
    GuardChange,
    /// Reading the watch.
    WatchLook,
    /// Changing the watch.
    WatchChange,
    /// Reading the epoch to pin.
    EpochLook,
    /// Reading the epoch to stamp what is retired: who is pinned is read next.
    EpochStamp,
    /// Reading the epoch to see what may be reused: who is pinned is read next.
    FloorLook,
    /// Advancing the epoch.
    EpochAdvance,
    /// Counting a pin.
    PinCount,
    /// Reading a count of pins.
    PinLook,
    /// Taking a pin out of the count.
    Unpin,
    /// Reading which epoch a generation of pins belongs to.
    BeganLook,
    /// Giving a generation of pins to an epoch, or taking it back.
    BeganChange,
    /// Reading or changing a link of the queue of retired extents.
    Link,
    /// Reading or writing the contents of a node of that queue.
    Node,
    /// Reading or changing the marks of blocks that transactions have freed.
    Mark,
    /// Reading the committed state, or changing it for a frozen transaction.
    Ledger,
    /// Reading or changing the number of blocks.
    Blocks,
    /// Reading or changing which leaves are closed, or whether any is.
    Closed,
    /// Reading or changing how many blocks in escrow nobody is promised.
    Spare,
    /// Reading or changing how many blocks may wait to be discarded.
    Discarding,
}

/// An atomic word of the index.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes), repr(transparent))]
pub(crate) struct AtomicWord<W: Atom> {
    raw: W::Raw,
    #[cfg(loom)]
    turn: Turn,
}

/// Loom looks only at the last access to an atomic when it decides which thread to let go first
/// instead: in a load and a CAS the thread's own load hides an earlier one by another thread, and
/// some interleavings are never tried (tokio-rs/loom, issues 166 and 392). So an access changes this
/// first. It multiplies the executions; only epochs, pins and the links of the queue have it.
#[cfg(loom)]
#[derive(Debug, Default)]
struct Turn(loom::sync::atomic::AtomicU8);

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
        if with_turn.contains(&site) {
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

    /// `count` words of zeros, in memory that is not touched.
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

    /// Replaces `current` by `new`, or answers with what is there instead.
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

    /// Replaces the word by what `next` makes of it, if that is anything; answers with what was there.
    /// Repeats only when others changed it.
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

    /// Reads a word of which one thread at a time is the writer, as that thread last left it or before.
    #[inline(always)]
    pub(crate) fn peek(&self) -> W {
        self.raw.peek()
    }

    /// Overwrites a word as its only writer. What others read of it tells them of nothing else.
    #[inline(always)]
    pub(crate) fn put(&self, value: W) {
        self.raw.put(value);
    }

    /// Overwrites the word: one that others only read meanwhile, or a fault to be modelled.
    #[inline(always)]
    pub(crate) fn store(&self, value: W, site: Site) {
        self.raw(site).store(value, site);
    }
}

impl AtomicWord<u64> {
    /// `words` before they are shared, as plain ones. The model checker's atomics are no words: nothing.
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

/// What [`AtomicWord`] needs of the atomic type behind it.
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

#[cfg(not(loom))]
mod access {
    use super::Site;
    use std::sync::atomic::Ordering;

    pub(super) const PLAIN: Ordering = Ordering::Relaxed;

    #[inline(always)]
    pub(super) const fn load(_: Site) -> Ordering {
        Ordering::SeqCst
    }
    #[inline(always)]
    pub(super) const fn store(site: Site) -> Ordering {
        match site {
            // Told of by a compare-exchange that follows.
            Site::Link | Site::Node => Ordering::Release,
            _ => Ordering::SeqCst,
        }
    }
    #[inline(always)]
    pub(super) const fn change(_: Site) -> Ordering {
        Ordering::SeqCst
    }
    #[inline(always)]
    pub(super) const fn after(_: Site) {}
}

#[cfg(loom)]
mod access {
    use super::Site;
    use crate::base::mutant::{Mutant, mutated};
    use loom::sync::atomic::{Ordering, fence};

    pub const PLAIN: Ordering = Ordering::Relaxed;

    pub fn load(_: Site) -> Ordering {
        if mutated(Mutant::RelaxedAll) { Ordering::Relaxed } else { Ordering::Acquire }
    }
    pub fn store(_: Site) -> Ordering {
        if mutated(Mutant::RelaxedAll) { Ordering::Relaxed } else { Ordering::Release }
    }
    pub fn change(site: Site) -> Ordering {
        let relaxed =
            mutated(Mutant::RelaxedAll) || (site == Site::Unpin && mutated(Mutant::RelaxedUnpin));
        if relaxed { Ordering::Relaxed } else { Ordering::AcqRel }
    }
    pub fn after(site: Site) {
        let weak = mutated(Mutant::WeakAll)
            || mutated(Mutant::RelaxedAll)
            || match site {
                Site::LeafRelease | Site::Sibling => {
                    mutated(Mutant::WeakSetterAfterLeaf) || mutated(Mutant::WeakWatch)
                }
                Site::LeafReleaseFull => {
                    mutated(Mutant::WeakSetterAfterLeaf)
                        || mutated(Mutant::WeakSibling)
                        || mutated(Mutant::WeakWatch)
                }
                Site::HasEnsure => {
                    mutated(Mutant::WeakSetterBetweenLevels) || mutated(Mutant::WeakWatch)
                }
                Site::HasSet => mutated(Mutant::WeakWatch),
                Site::HasClear => mutated(Mutant::WeakClearer),
                Site::Closed => mutated(Mutant::WeakClosed),
                Site::PinCount => mutated(Mutant::WeakPin),
                Site::EpochStamp => mutated(Mutant::WeakStamp),
                Site::FloorLook => mutated(Mutant::WeakFloor),
                // Next to these an engine reads and writes its own data as weakly as it likes: a
                // fence would order that, the access itself does not.
                Site::EpochLook
                | Site::EpochAdvance
                | Site::PinLook
                | Site::Unpin
                | Site::BeganLook
                | Site::BeganChange => true,
                // Message passing alone: see `queue.rs`. The index orders the marks, as below.
                Site::Link | Site::Node | Site::Mark => true,
                // The index orders what belongs together here: a block's way from owner to owner.
                Site::Ledger => true,
                _ => false,
            };
        if !weak {
            fence(Ordering::SeqCst);
        }
    }
}

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

/// A statistic: never part of the protocol, so relaxed, and no business of the model checker.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
pub(crate) struct Counter(std::sync::atomic::AtomicU64);

impl Counter {
    /// A counter that starts at `value`.
    pub(crate) const fn new(value: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(value))
    }

    /// `count` counters that start at 0, in memory that is not touched.
    pub(crate) fn zeros(count: usize) -> Result<Vec<Self>, OutOfMemory> {
        #[cfg(not(loom))]
        return crate::base::heap::zeroed(count);
        #[cfg(loom)]
        Ok((0..count).map(|_| Self::default()).collect())
    }

    /// Adds `value`, wrapping, and returns what was there before.
    #[inline(always)]
    pub(crate) fn fetch_add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, std::sync::atomic::Ordering::Relaxed)
    }

    /// Adds `value`, wrapping, whoever else does.
    #[inline(always)]
    pub(crate) fn add(&self, value: u64) {
        self.fetch_add(value);
    }

    /// Adds `value`, wrapping, as the only writer (or what another adds may be lost): two plain moves
    /// instead of a locked one.
    #[inline(always)]
    pub(crate) fn add_as_owner(&self, value: u64) {
        self.0.store(self.get().wrapping_add(value), std::sync::atomic::Ordering::Relaxed);
    }

    /// Makes it `value` if that is more.
    pub(crate) fn raise(&self, value: u64) {
        self.0.fetch_max(value, std::sync::atomic::Ordering::Relaxed);
    }

    /// Replaces the value.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, std::sync::atomic::Ordering::Relaxed);
    }

    /// Replaces the value and returns what was there before.
    pub(crate) fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, std::sync::atomic::Ordering::Relaxed)
    }

    /// The value.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A place that is filled once and then read by all. Lock-free: of several threads that fill it at the same
/// moment one succeeds, and none waits for another, as they would with [`OnceLock`](std::sync::OnceLock).
#[derive(Debug)]
pub(crate) struct Slot<T> {
    value: once_cell::race::OnceBox<T>,
    /// What the model checker sees of it.
    #[cfg(loom)]
    there: loom::sync::atomic::AtomicBool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            value: once_cell::race::OnceBox::new(),
            #[cfg(loom)]
            there: loom::sync::atomic::AtomicBool::new(false),
        }
    }
}

impl<T> Slot<T> {
    /// Puts `value` there, unless something is.
    pub(crate) fn set(&self, value: T) {
        // What comes too late is dropped.
        let _ = self.value.set(Box::new(value));
        #[cfg(loom)]
        self.there.store(true, loom::sync::atomic::Ordering::Release);
    }

    /// What is there, with all that was done before it was put there.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        #[cfg(loom)]
        if !self.there.load(loom::sync::atomic::Ordering::Acquire) {
            return None;
        }
        self.value.get()
    }
}

/// Something that has at most one owner at a time. What the owner did happens before what the next
/// one does.
#[derive(Debug, Default)]
pub(crate) struct Claim(std::sync::atomic::AtomicBool);

impl Claim {
    /// Whether the caller is the owner now.
    pub(crate) fn acquire(&self) -> bool {
        !self.0.swap(true, std::sync::atomic::Ordering::Acquire)
    }

    /// Ends the caller's ownership.
    pub(crate) fn release(&self) {
        self.0.store(false, std::sync::atomic::Ordering::Release);
    }

    /// Makes the caller the owner, until what he gets is dropped; nothing if somebody else is it.
    pub(crate) fn own(&self) -> Option<Owner<'_>> {
        self.acquire().then(|| Owner(self))
    }

    /// Calls `work` as the owner, or answers nothing if somebody else is it.
    pub(crate) fn with<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let _owner = self.own()?;
        Some(work())
    }
}

/// The owner of a [`Claim`].
#[derive(Debug)]
pub(crate) struct Owner<'a>(&'a Claim);

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Locks for what waits anyway: commits. Never on the way of allocations and frees.
pub(crate) mod blocking {
    #[cfg(loom)]
    pub use loom::sync::{Condvar, Mutex, MutexGuard as Guard};
    #[cfg(loom)]
    pub use loom::thread::{ThreadId, current};
    #[cfg(not(loom))]
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard as Guard};
    #[cfg(not(loom))]
    pub(crate) use std::thread::{ThreadId, current};

    /// The calling thread.
    pub(crate) fn this_thread() -> ThreadId {
        current().id()
    }

    /// Locks `mutex`, whether or not a holder panicked: what it protects is changed in single steps.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for `condvar`.
    pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: Guard<'a, T>) -> Guard<'a, T> {
        condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for `condvar` at most for `patience`; whether that came to its end. Under loom it never
    /// does.
    pub(crate) fn wait_for<'a, T>(
        condvar: &Condvar,
        guard: Guard<'a, T>,
        patience: std::time::Duration,
    ) -> (Guard<'a, T>, bool) {
        let waited = condvar.wait_timeout(guard, patience);
        let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        (guard, timeout.timed_out())
    }
}
