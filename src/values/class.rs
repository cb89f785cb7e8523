//! Classes of requests, and where each has its place.

use crate::values::extent::Extent;

/// Classes that there are.
pub(crate) const CLASSES: usize = 8;

/// What a request is for, which says where it is placed: see [`Placement`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, Class, Extent, Placement, Request};
///
/// // Metadata has the first 64 GiB of a TiB, where the disk is fast, and 1 GiB that nobody else gets.
/// let metadata = Placement::new().region(Extent::new(0, 16 << 20)).reserve(1 << 18);
/// let allocator = Allocator::builder(256 << 20).placement(Class::METADATA, metadata).build()?;
///
/// let inode = allocator.allocate_with(&Request::new(1).class(Class::METADATA))?;
/// let object = allocator.allocate_with(&Request::new(1000).scattered())?;
/// assert!(inode[0].start < 16 << 20 && object[0].start >= 16 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class(u8);

impl Class {
    /// The class of all requests that name none.
    pub const BULK: Class = Class(0);
    /// What the engine needs to work at all.
    pub const METADATA: Class = Class(1);

    /// A class of the engine's own: 0 to 5, nothing beyond. A class without a placement is placed as
    /// [`Class::BULK`] is without one.
    pub const fn user(number: u8) -> Option<Class> {
        if number < CLASSES as u8 - 2 { Some(Class(number + 2)) } else { None }
    }

    pub(crate) fn index(self) -> usize {
        self.0.into()
    }
}

/// From where to where a region is filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Each handle begins somewhere else, so that they do not meet: the default.
    #[default]
    Spread,
    /// From the lowest block on: what is in use stays together.
    Up,
    /// From the highest block down, by 32768 blocks; those are filled upwards.
    Down,
}

/// Where what does not fit into a region goes, of the space that is in no region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spill {
    /// To what is nearest to the region first: the default.
    #[default]
    Near,
    /// To what is furthest from it first.
    Far,
}

/// Where the requests of a [`Class`] are placed.
///
/// In their region first; then in space that is in no region, as [`Spill`] says; then in the regions of other
/// classes, the same way. So a placement makes no request fail that fits anywhere outside the reserves of
/// other classes. [`Request::near`](crate::Request::near) and
/// [`best_fit`](crate::Request::best_fit) come before it. A request in pieces takes the longest of its region
/// before it looks elsewhere.
///
/// Extents may reach over the borders of regions. Classes without a region keep to the space that is in none, as long as that has what they want. Handles
/// allocate single blocks in sequence faster if no placement is set at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub(crate) region: Option<Extent>,
    pub(crate) direction: Direction,
    pub(crate) spill: Spill,
    pub(crate) reserve: u64,
}

impl Placement {
    /// No region, no reserve.
    pub const fn new() -> Self {
        Self { region: None, direction: Direction::Spread, spill: Spill::Near, reserve: 0 }
    }

    /// The region: it starts at a multiple of 512 blocks, ends at one or with the device, and has no block in
    /// common with those of other classes.
    #[must_use]
    pub const fn region(mut self, region: Extent) -> Self {
        self.region = Some(region);
        self
    }

    /// From where to where the region is filled, or for a class without one, the space that is in none.
    #[must_use]
    pub const fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Where what does not fit goes.
    #[must_use]
    pub const fn spill(mut self, spill: Spill) -> Self {
        self.spill = spill;
        self
    }

    /// `blocks` blocks, any blocks, that only this class gets, when nothing else is free: kept as a
    /// [`Reservation`](crate::Reservation) keeps them, and met with the same limits. Once some of them were
    /// needed, the next blocks that anybody frees are kept in their stead. Blocks in a reserve count as
    /// allocated: that one of them is freed a second time may not be noticed.
    #[must_use]
    pub const fn reserve(mut self, blocks: u64) -> Self {
        self.reserve = blocks;
        self
    }
}
