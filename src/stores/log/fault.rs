//! Faults that the crash tests switch on, one or two at a time, to show that they detect each
//! broken ordering rule and each missing check. In an ordinary build [`faulty`] is the constant
//! `false`.

/// A deliberate fault in the order of writes, or in a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// An image overwrites the newest durable one.
    ImageInPlace,
    /// A directory page names images of its own window.
    DirectoryBeforeImage,
    /// The tail moves past changes of which the directory has no image yet.
    TailBeforeDirectory,
    /// The tail moves past transactions that the engine has not called stable, if they changed
    /// nothing.
    TailBeforeStable,
    /// The ring is used again before a superblock has the new tail.
    RingBeforeSuperblock,
    /// Both copies of a directory page in one window.
    DirectoryBothCopies,
    /// A commit is acknowledged without a flush.
    NoFlush,
    /// Opening does not begin a new incarnation.
    SameIncarnation,
    /// Growth does not flush the new areas before the superblock.
    GrowthWithoutFlush,
    /// A new size is acknowledged without a flush.
    SizeWithoutFlush,
    /// The device becomes smaller without a check that nothing needs the blocks to be cut off.
    ShrinkWithoutLook,
    /// The tail moves past changes of ranges that were cut off.
    ShrinkForgetsImages,
    /// A shrink does not record how far back the engine can go.
    ShrinkWithoutFloor,
    /// Frames of an unfinished transaction are replayed.
    UnfinishedReplayed,
    /// Each frame of a transaction of several frames is taken to end it.
    UnfinishedIsBoundary,
    /// A superblock with a new tail goes to only one of its two places.
    SuperblockInOnePlace,
    /// Images of a failed window are not planned again.
    AbandonForgets,
    /// A newer image drops the image that is being written to the directory.
    OnItsWayForgotten,
    /// No room is kept for taking back transactions that the engine has not called stable.
    NoRoomForUndo,
    /// The transactions of a failed window are undone first to last.
    UndoneForward,
    /// The log's part of its first transaction is taken for all of it.
    CutTransactionReplayed,
    /// The count of allocated blocks is not compared.
    TotalUnchecked,
    /// Image records from before the tail, or of missing transactions, count.
    ImageBaseUnchecked,
    /// Image records in frames that were cut off count.
    CutImagesKept,
    /// No look behind the last frame for one which says that it was not the last.
    NoLookBehind,
}

#[cfg(not(test))]
#[inline(always)]
pub(super) const fn faulty(_: Fault) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    /// One bit for each fault.
    static SELECTED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
pub(super) fn faulty(fault: Fault) -> bool {
    SELECTED.get() >> fault as u64 & 1 == 1
}

/// Switches a fault on for this thread, and the others off.
#[cfg(test)]
pub(super) fn select(fault: Option<Fault>) {
    select_all(fault.as_slice());
}

/// Switches these on for this thread, and the others off.
#[cfg(test)]
pub(super) fn select_all(faults: &[Fault]) {
    SELECTED.set(faults.iter().fold(0, |all, &fault| all | 1 << fault as u64));
}

#[cfg(test)]
thread_local! {
    static TIGHT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether rings have only the minimum room, so that commits have to wait for condensing. In an
/// ordinary build the constant `false`.
#[cfg(test)]
pub(super) fn tight_ring() -> bool {
    TIGHT.get()
}

#[cfg(not(test))]
#[inline(always)]
pub(super) const fn tight_ring() -> bool {
    false
}

/// Makes the rings that this thread lays out tight, or not.
#[cfg(test)]
pub(super) fn select_tight_ring(tight: bool) {
    TIGHT.set(tight);
}
