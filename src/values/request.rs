//! What to allocate.

use crate::values::class::Class;
use crate::values::error::RequestError;

/// How many blocks, and in what shape.
///
/// A request is contiguous (one extent) unless [`scattered`](Request::scattered) is called.
///
/// ```
/// use freemap::{Allocator, Request};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = Allocator::new(1 << 20)?;
/// // 1 MiB of 4 KiB blocks for a stripe: one extent, aligned to 256 blocks, close to block 5000.
/// let stripe = allocator.allocate_with(&Request::new(256).align(256).near(5000))?;
/// assert_eq!(stripe[0].start, 5120);
/// // 1000 blocks in extents of 16 blocks and more.
/// let object = allocator.allocate_with(&Request::new(1000).scattered().min_extent(16))?;
/// assert_eq!(object.blocks(), 1000);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(crate) len: u64,
    pub(crate) min_extent: u64,
    pub(crate) max_extent: u64,
    pub(crate) align: u64,
    pub(crate) near: Option<u64>,
    pub(crate) scattered: bool,
    pub(crate) partial: bool,
    pub(crate) best_fit: bool,
    pub(crate) class: Class,
    pub(crate) effort: u64,
}

impl Request {
    /// A request for `len` blocks in one extent.
    pub const fn new(len: u64) -> Self {
        Self {
            len,
            min_extent: 1,
            max_extent: u64::MAX,
            align: 1,
            near: None,
            scattered: false,
            partial: false,
            best_fit: false,
            class: Class::BULK,
            effort: u64::MAX,
        }
    }

    /// All blocks in one extent: the default.
    #[must_use]
    pub const fn contiguous(mut self) -> Self {
        self.scattered = false;
        self
    }

    /// Several extents whose lengths sum to what was asked for: all of it or an error, unless
    /// [`partial`](Request::partial) is called too. Long extents are preferred.
    #[must_use]
    pub const fn scattered(mut self) -> Self {
        self.scattered = true;
        self
    }

    /// No extent of a scattered request shorter than `blocks`; 1 by default. A partial answer may
    /// stop short of the requested length, but its extents keep to this bound as well.
    #[must_use]
    pub const fn min_extent(mut self, blocks: u64) -> Self {
        self.min_extent = blocks;
        self
    }

    /// No extent of a scattered request longer than `blocks`; unlimited by default.
    #[must_use]
    pub const fn max_extent(mut self, blocks: u64) -> Self {
        self.max_extent = blocks;
        self
    }

    /// Every extent starts at a multiple of `blocks`, which need not be a power of two; 1 by
    /// default.
    #[must_use]
    pub const fn align(mut self, blocks: u64) -> Self {
        self.align = blocks;
        self
    }

    /// The search begins at `block` and wraps round at the end of the device. What is found is
    /// close behind `block`, not always the closest.
    #[must_use]
    pub const fn near(mut self, block: u64) -> Self {
        self.near = Some(block);
        self
    }

    /// A scattered request takes what there is, down to a single extent, instead of failing
    /// because less than all is to be had. It still fails if there is nothing at all.
    #[must_use]
    pub const fn partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// What the blocks are for: see [`Placement`](crate::Placement). [`Class::BULK`] by default.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Spare the large runs: take the request from the leaf whose longest aligned run is the
    /// shortest that will do, wherever on the device it lies (within the size class of a power of
    /// two). For contiguous requests of at most 512 blocks; others are placed as usual. Costs a
    /// look at up to every summary node (about 100 us per TiB) where the default looks at the
    /// nearest, and at 4096 leaves besides (about as long), because the summary may still say that
    /// leaves have runs which they have not any more. Those are the next 4096 in turn: on devices of
    /// more than 2^21 blocks the choice goes in part by what was true some requests ago.
    #[must_use]
    pub const fn best_fit(mut self) -> Self {
        self.best_fit = true;
        self
    }

    /// A scattered request looks into at most this many leaves (512 blocks each) for long extents; then
    /// it takes whatever extents come first. Extents that its handle remembers need no look. Without a
    /// limit it looks into every leaf that may have a longer run than what is left to take, one size
    /// after another: all on the device, at worst. But a handle that has looked into n leaves for a size in
    /// vain goes by what it remembers for the next 4 n requests, 4096 at most, or 64 where a run for the
    /// whole request was looked for: longer extents that others freed meanwhile may be passed by. Requests
    /// that say where to look ([`near`](Self::near), [`best_fit`](Self::best_fit), a placed class, a stream)
    /// always look. A request that can be met is met, whatever its limit. If the extents have bounds or an
    /// alignment, each of them counts as one leaf. See [`Effort`].
    #[must_use]
    pub const fn effort(mut self, leaves: u64) -> Self {
        self.effort = leaves;
        self
    }

    /// Whether any runs will do, as they come.
    pub(crate) fn takes_any_pieces(&self) -> bool {
        (self.min_extent, self.max_extent, self.align) == (1, u64::MAX, 1)
    }

    /// Whether any blocks will do, wherever they are.
    pub(crate) fn takes_any_blocks(&self) -> bool {
        let pieces = self.scattered || self.len == 1;
        pieces && self.min_extent == 1 && self.align == 1
    }

    /// Checks the request against a device of `blocks` blocks.
    pub(crate) fn validate(&self, blocks: u64) -> Result<(), RequestError> {
        let Self { len, min_extent: min, max_extent: max, align, .. } = *self;
        if len == 0 {
            return Err(RequestError::ZeroLength);
        }
        if len > blocks {
            return Err(RequestError::TooLong { len, blocks });
        }
        if min == 0 || min > max {
            return Err(RequestError::ExtentBounds { min, max });
        }
        if align == 0 || align > blocks {
            return Err(RequestError::Align { align, blocks });
        }
        if let Some(block) = self.near.filter(|&block| block >= blocks) {
            return Err(RequestError::NearOutside { block, blocks });
        }
        let divisible = if self.scattered { self.divisible(len) } else { min <= len && len <= max };
        let some = self.scattered && self.partial && len >= min;
        if !(divisible || some) {
            return Err(RequestError::Indivisible { len, min, max });
        }
        Ok(())
    }

    /// Whether some number of extents within the bounds sums to `len`.
    #[inline]
    pub(crate) fn divisible(&self, len: u64) -> bool {
        len.div_ceil(self.max_extent) <= len / self.min_extent
    }
}

/// What a request took to be met: see [`Handle::allocate_reported`](crate::Handle::allocate_reported).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effort {
    /// Leaves (512 blocks each) looked into for the extents of a scattered request. 0 for others, and
    /// where all of it was found in one extent at once, or in extents that the handle remembered.
    pub leaves: u64,
    /// Whether [`Request::effort`] was used up, so that there may have been longer extents.
    pub gave_up: bool,
}
