//! The place of an access in the protocol.

/// The place of an access in the protocol. `docs/ordering.md` lists what each place pairs with.
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
    /// Reading a number or a summary bit in order to raise or set it if need be.
    HasEnsure,
    /// Raising a number or setting a summary bit.
    HasSet,
    /// Reading numbers or a summary word to search.
    HasLook,
    /// Lowering a number or clearing a summary bit.
    HasClear,
    /// Reading a guard word.
    GuardLook,
    /// Restoring a number, releasing its guard or serving a want; taking or releasing a guard bit.
    GuardChange,
    /// Reading the watch.
    WatchLook,
    /// Changing the watch.
    WatchChange,
    /// Reading the epoch to pin.
    EpochLook,
    /// Reading the epoch to stamp a retired extent: the pin counts are read next.
    EpochStamp,
    /// Reading the epoch to see what may be reused: the pin counts are read next.
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
    /// Reading or changing how many blocks in escrow are promised to no caller.
    Spare,
    /// Reading or changing how many blocks may wait to be discarded.
    Discarding,
    /// Reading or changing which runs of waiting blocks requests missed, and the notes of them.
    Joined,
}
