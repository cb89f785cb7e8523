//! Everything that can go wrong, as values. A call that fails changes nothing, with the one
//! exception that [`FreeError::Torn`] describes.

use thiserror::Error;

use crate::values::extent::Extent;

/// An allocator could not be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The device has no blocks.
    #[error("a device of 0 blocks cannot be allocated from")]
    NoBlocks,
    /// The device has more blocks than the index can address.
    #[error("{blocks} blocks are more than the {max} that an allocator can hold")]
    TooManyBlocks {
        /// Blocks asked for.
        blocks: u64,
        /// The limit: [`MAX_BLOCKS`](crate::MAX_BLOCKS), or less where addresses are shorter.
        max: u64,
    },
    /// The block size is not a power of two from 512 bytes to 1 MiB.
    #[error("block size {bytes} is not a power of two from 512 to 1048576 bytes")]
    BlockSize {
        /// Bytes asked for.
        bytes: u32,
    },
    /// The region of a class is empty, not on the device, does not start or end at a multiple of
    /// 512 blocks (or end with the device), or has blocks in common with another region.
    #[error("{region} cannot be the region of a class")]
    Region {
        /// The region.
        region: Extent,
    },
    /// A bitmap does not have one bit per block.
    #[error("the bitmap of {blocks} blocks must have {expected} words, not {found}")]
    BitmapLength {
        /// Blocks of the device.
        blocks: u64,
        /// Words that hold that many bits.
        expected: u64,
        /// Words given.
        found: u64,
    },
    /// The process could not get the memory.
    #[error("no memory for {bytes} bytes of the index")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
}

/// An allocation could not be made. Nothing was allocated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllocError {
    /// Fewer blocks are free than requested. Counters that are read one after another tell it apart
    /// from `NoContiguous`: exact while nothing else runs.
    #[error("{requested} blocks requested, {free} free")]
    NoSpace {
        /// Blocks asked for.
        requested: u64,
        /// Blocks free at about this moment.
        free: u64,
    },
    /// Enough blocks are free, but no run of them (or, for a scattered request, no set of runs)
    /// fits the request.
    #[error("no fitting run for {requested} blocks among {free} free ones")]
    NoContiguous {
        /// Blocks asked for.
        requested: u64,
        /// Blocks free at about this moment.
        free: u64,
    },
    /// No state of this device could meet the request.
    #[error("invalid request: {0}")]
    InvalidRequest(#[from] RequestError),
    /// The process has no memory for the list of extents.
    #[error("no memory for the list of extents")]
    OutOfMemory,
}

impl AllocError {
    /// Whether more free blocks, or different ones, could help.
    pub(crate) fn is_want_of_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::NoContiguous { .. })
    }
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Zero blocks.
    #[error("zero blocks")]
    ZeroLength,
    /// More blocks than the device has.
    #[error("{len} blocks, but the device has {blocks}")]
    TooLong {
        /// Blocks asked for.
        len: u64,
        /// Blocks of the device.
        blocks: u64,
    },
    /// `min_extent` is zero, or larger than `max_extent`, or no multiple of the unit lies between
    /// them.
    #[error("extents of at least {min} and at most {max} blocks")]
    ExtentBounds {
        /// The shortest extent allowed.
        min: u64,
        /// The longest extent allowed.
        max: u64,
    },
    /// No number of extents within the bounds sums to the length.
    #[error("{len} blocks cannot be cut into extents of {min} to {max} blocks")]
    Indivisible {
        /// Blocks asked for.
        len: u64,
        /// The shortest extent allowed.
        min: u64,
        /// The longest extent allowed.
        max: u64,
    },
    /// The unit is zero, or the length is not a multiple of it.
    #[error("{len} blocks are not a multiple of {unit} blocks")]
    Unit {
        /// Blocks asked for.
        len: u64,
        /// The unit in blocks.
        unit: u64,
    },
    /// `near` lies outside the device.
    #[error("near block {block}, but the device has {blocks} blocks")]
    NearOutside {
        /// The block.
        block: u64,
        /// Blocks of the device.
        blocks: u64,
    },
    /// More blocks than the reservation has left.
    #[error("{len} blocks, but {reserved} are left of the reservation")]
    BeyondReservation {
        /// Blocks asked for.
        len: u64,
        /// Blocks that are reserved.
        reserved: u64,
    },
    /// The reservation or stream was made at another allocator.
    #[error("the reservation or stream is another allocator's")]
    Foreign,
    /// The alignment, or its least common multiple with the unit, is zero or larger than the device.
    #[error("alignment {align} on a device of {blocks} blocks")]
    Align {
        /// The alignment in blocks.
        align: u64,
        /// Blocks of the device.
        blocks: u64,
    },
}

// Requests are refused with it by value.
const _: () = assert!(size_of::<RequestError>() <= 32);

/// The extent is not a non-empty range of the device's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The extent has no blocks.
    #[error("the extent at block {start} is empty")]
    Empty {
        /// Where it starts.
        start: u64,
    },
    /// The extent reaches beyond the device.
    #[error("block {block} is outside the device of {blocks} blocks")]
    OutOfRange {
        /// The first block of the extent beyond the device.
        block: u64,
        /// Blocks of the device.
        blocks: u64,
    },
}

/// An extent could not be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FreeError {
    /// This block of the extent is already free. Nothing was changed.
    ///
    /// A block that a transaction frees counts as free from when the transaction is frozen or
    /// begins to be committed until its free is given up or the block may be reused.
    ///
    /// One bit per block cannot tell a stale free from a rightful one if another owner has
    /// allocated the block since; such a free succeeds.
    #[error("block {block} is free already")]
    DoubleFree {
        /// The first such block.
        block: u64,
    },
    /// The allocator's store knows this block of the extent to be committed, and only a
    /// [transaction](crate::Transaction::free) can change that. Without one, the next owner of the
    /// block could not commit, readers would lose what they are reading, and a restart would find
    /// the block allocated. Nothing was changed. See
    /// [`Builder::allow_plain_frees`](crate::Builder::allow_plain_frees).
    #[error("block {block} is committed: free it by a transaction")]
    Committed {
        /// The first such block.
        block: u64,
    },
    /// The extent is not a non-empty range of the device's blocks. Nothing was changed.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Another thread freed an overlapping extent at the same moment. This call freed `released`
    /// and did not touch the rest. In the next word (64 blocks) behind `released` is a block that
    /// the other thread freed, but those before that block may still be the caller's. Free the rest
    /// again to learn which block it is: the answer is then an exact
    /// [`DoubleFree`](Self::DoubleFree) (unless that block was allocated again meanwhile).
    #[error(
        "freed {released} only: a block in the next word was freed by another thread meanwhile"
    )]
    Torn {
        /// What this call freed: the beginning of the extent.
        released: Extent,
    },
}

/// Some of a list of extents could not be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{error} (freed: the first {freed} extents of the sorted list)")]
pub struct FreeManyError {
    /// How many extents from the beginning of the list are freed, in the order in which the call
    /// left the list. 0 unless another thread freed the same blocks at the same moment.
    pub freed: usize,
    /// Why the rest is not freed. The block it names may lie some extents behind the first one not
    /// freed: the blocks in one word are freed together or not at all.
    #[source]
    pub error: FreeError,
}

/// An extent could not be marked as allocated. Nothing was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MarkError {
    /// This block of the extent is already allocated, or a [`ReadGuard`](crate::ReadGuard) holds
    /// it.
    #[error("block {block} is allocated already")]
    AlreadyAllocated {
        /// The first block with an owner, or the first that a guard holds.
        block: u64,
    },
    /// This block is kept for a [`Reservation`](crate::Reservation), and no other is free to take
    /// its place.
    #[error("block {block} is kept for a reservation, and no other is free")]
    Promised {
        /// The block.
        block: u64,
    },
    /// This block lies in a [region](crate::Region) that is closed.
    #[error("block {block} lies in a closed region")]
    Closed {
        /// The first such block.
        block: u64,
    },
    /// The extent is not a non-empty range of the device's blocks.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// A region could not be closed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Part of the region is already closed.
    #[error("block {block} lies in a region that is closed already")]
    Closed {
        /// The first block of the first closed leaf (512 blocks).
        block: u64,
    },
    /// Another thread is closing a region or resizing the device right now.
    #[error("another region is being closed or the device resized at this moment")]
    Busy,
    /// The extent is not a non-empty range of the device's blocks.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// The device could not be resized. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// Growing to fewer blocks than there are, or shrinking to as many or more, or to none.
    #[error("a device of {blocks} blocks cannot be resized to {wanted} this way")]
    Length {
        /// Blocks of the device.
        blocks: u64,
        /// Blocks asked for.
        wanted: u64,
    },
    /// More blocks than the index can address.
    #[error("{wanted} blocks are more than the {max} that an allocator can hold")]
    TooManyBlocks {
        /// Blocks asked for.
        wanted: u64,
        /// The limit: [`MAX_BLOCKS`](crate::MAX_BLOCKS).
        max: u64,
    },
    /// Blocks behind the new end are still in use.
    #[error("{live} blocks behind the new end are in use")]
    InUse {
        /// How many blocks are in use there.
        live: u64,
    },
    /// The process could not get the memory.
    #[error("no memory for {bytes} bytes of the index")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The tail could not be closed.
    #[error(transparent)]
    Close(#[from] CloseError),
}

/// The start and length of `extent`, checked to lie on a device of `blocks` blocks.
#[inline(always)]
pub(crate) fn on_device(extent: Extent, blocks: u64) -> Result<(u64, u64), RangeError> {
    match extent.start.checked_add(extent.len) {
        Some(end) if end <= blocks && extent.len > 0 => Ok((extent.start, extent.len)),
        _ if extent.len == 0 => Err(RangeError::Empty { start: extent.start }),
        _ => Err(RangeError::OutOfRange { block: extent.start.max(blocks), blocks }),
    }
}
