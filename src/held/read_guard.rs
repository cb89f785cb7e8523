//! The guard that a reader holds while it reads.

use std::sync::Arc;

use crate::base::sync::Counter;
use crate::core::Core;
use crate::quarantine::epoch::Pin;

/// Protects extents that a reader may still look at from reuse.
///
/// As long as the guard lives, no extent is handed out again whose free became durable after the
/// guard was made. The reader pins first, then looks up where its data lies, then reads. Whatever
/// it found stays in place until the guard is dropped.
///
/// Guards are counted, not listed. Any number may live at once, on one thread or many, across
/// asynchronous I/O. A guard may be dropped on another thread than the one that made it. However
/// guards overlap, each holds only what was freed during its own life: two long backups that
/// overlap for a moment do not hold what was freed during the other. This is exact for guards of up
/// to 63 different times at once (times between which something was freed); beyond that, the newest
/// count as one. A guard that is never dropped keeps everything freed later in the quarantine until
/// a restart; it corrupts nothing.
///
/// Making and dropping a guard costs two or three locked instructions on a line that few threads
/// share.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = freemap::Allocator::new(64)?;
/// let old = allocator.allocate(64)?;
///
/// let guard = allocator.pin(); // a reader uses `old`
/// let mut transaction = allocator.begin();
/// transaction.free(old)?;
/// transaction.freeze().committed();
/// assert_eq!(allocator.quarantined_blocks(), 64);
/// assert!(allocator.allocate(1).is_err());
///
/// drop(guard);
/// assert!(allocator.allocate(1).is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a guard protects as long as it lives"]
pub struct ReadGuard<'a> {
    core: Hold<'a>,
    pin: Option<Pin>,
}

#[derive(Debug)]
enum Hold<'a> {
    Borrowed(&'a Core),
    Shared(Arc<Core>),
}

impl Hold<'_> {
    fn core(&self) -> &Core {
        match self {
            Self::Borrowed(core) => core,
            Self::Shared(core) => core,
        }
    }
}

impl<'a> ReadGuard<'a> {
    #[inline]
    pub(crate) fn borrowed(core: &'a Core) -> Self {
        let pin = Some(core.space.quarantine.pin(lane()));
        Self { core: Hold::Borrowed(core), pin }
    }

    pub(crate) fn shared(core: Arc<Core>) -> ReadGuard<'static> {
        let pin = Some(core.space.quarantine.pin(lane()));
        ReadGuard { core: Hold::Shared(core), pin }
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(pin) = self.pin.take() {
            self.core.core().space.quarantine.unpin(pin);
        }
    }
}

/// The number of this thread, which selects the lane that its pins are counted in.
#[inline]
fn lane() -> usize {
    static THREADS: Counter = Counter::new(0);
    thread_local! {
        static LANE: usize = THREADS.fetch_add(1) as usize;
    }
    LANE.try_with(|lane| *lane).unwrap_or(0)
}
