//! Faults that the crash tests switch on, one at a time, to show that they would notice each ordering
//! rule being broken. In an ordinary build [`faulty`] is the constant `false`.

/// A deliberate fault in the order of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An image overwrites the newest durable one.
    ImageInPlace,
    /// A directory page names images of its own window.
    DirectoryBeforeImage,
    /// The tail moves past changes that the directory has no image of yet.
    TailBeforeDirectory,
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
    /// The device becomes smaller without a look whether anybody needs what is cut off.
    ShrinkWithoutLook,
    /// The tail moves past changes of ranges that were cut off.
    ShrinkForgetsImages,
    /// A shrink does not say how far back the engine can go.
    ShrinkWithoutFloor,
}

#[cfg(not(test))]
#[inline(always)]
pub const fn faulty(_: Fault) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static SELECTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub fn faulty(fault: Fault) -> bool {
    SELECTED.get() == Some(fault)
}

/// Switches a fault on for this thread.
#[cfg(test)]
pub fn select(fault: Option<Fault>) {
    SELECTED.set(fault);
}

#[cfg(test)]
thread_local! {
    static TIGHT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether rings have only the room without which nothing goes, so that commits have to wait for
/// condensing. In an ordinary build the constant `false`.
#[cfg(test)]
pub fn tight_ring() -> bool {
    TIGHT.get()
}

#[cfg(not(test))]
#[inline(always)]
pub const fn tight_ring() -> bool {
    false
}

/// Makes the rings that this thread lays out tight, or not.
#[cfg(test)]
pub fn select_tight_ring(tight: bool) {
    TIGHT.set(tight);
}
