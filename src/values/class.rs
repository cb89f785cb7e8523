//! Request classes, and where each is placed.

use crate::values::extent::Extent;

/// Number of classes.
pub(crate) const CLASSES: usize = 8;

/// What a request is for. Its [`Placement`] says where the blocks come from.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, Class, Extent, Placement, Request};
///
/// // Metadata has the first 64 GiB of a TiB, where the disk is fast, and 1 GiB of its own.
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
    /// The class of all requests that name no class.
    pub const BULK: Class = Class(0);
    /// What the engine needs to work at all.
    pub const METADATA: Class = Class(1);

    /// A class of the engine's own, numbered 0 to 5; `None` above. A class without a placement is
    /// placed as [`Class::BULK`] is without one.
    pub const fn user(number: u8) -> Option<Class> {
        if number < CLASSES as u8 - 2 { Some(Class(number + 2)) } else { None }
    }

    pub(crate) fn index(self) -> usize {
        self.0.into()
    }
}

/// In which direction a region is filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Each handle begins at a different place, so that handles do not meet: the default.
    #[default]
    Spread,
    /// From the lowest block up: what is in use stays together.
    Up,
    /// From the highest block down, in steps of 32768 blocks; each step is filled upwards.
    Down,
}

/// Which space outside all regions takes what does not fit into a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spill {
    /// The nearest to the region first: the default.
    #[default]
    Near,
    /// The furthest from the region first.
    Far,
}

/// Where the requests of a [`Class`] are placed.
///
/// First in their region; then in space outside all regions, as [`Spill`] says; then in the regions
/// of other classes, in the same way. So a placement makes no request fail that fits anywhere
/// outside the reserves of other classes. [`Request::near`](crate::Request::near) takes precedence
/// over it. A request in pieces takes the longest runs of its region before it looks elsewhere.
///
/// Extents may cross the borders of regions. Classes without a region keep to the space outside all
/// regions as long as it has what they want. Handles allocate single blocks in sequence faster if
/// no placement is set at all.
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

    /// The region. It starts at a multiple of 512 blocks, ends at one or with the device, and has
    /// no block in common with the regions of other classes.
    #[must_use]
    pub const fn region(mut self, region: Extent) -> Self {
        self.region = Some(region);
        self
    }

    /// The direction in which the region is filled; for a class without a region, that of the space
    /// outside all regions.
    #[must_use]
    pub const fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Which space takes what does not fit into the region.
    #[must_use]
    pub const fn spill(mut self, spill: Spill) -> Self {
        self.spill = spill;
        self
    }

    /// Keeps `blocks` blocks, any blocks, for this class alone when nothing else is free. They are
    /// kept as a [`Reservation`](crate::Reservation) keeps its blocks, with the same limits. After
    /// some of them were needed, the next blocks freed by any thread replace them. Blocks in a
    /// reserve count as allocated: a second free of one of them may go unnoticed.
    #[must_use]
    pub const fn reserve(mut self, blocks: u64) -> Self {
        self.reserve = blocks;
        self
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_classes_of_an_engine_are_all_that_have_no_name() {
        let numbered = (0..=u8::MAX).map_while(Class::user).map(Class::index);
        let named = [Class::BULK, Class::METADATA].map(Class::index);
        assert!(named.into_iter().chain(numbered).eq(0..CLASSES));
        assert!((CLASSES as u8 - 2..=u8::MAX).all(|number| Class::user(number).is_none()));
    }
}
