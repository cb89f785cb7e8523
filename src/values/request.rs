//! What to allocate.

use crate::values::bounds::Bounds;
use crate::values::class::Class;
use crate::values::error::RequestError;
use crate::values::extent::{Extent, blocks_of};

/// How many blocks to allocate, and in what shape.
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
    pub(crate) unit: u64,
    pub(crate) near: Option<u64>,
    pub(crate) scattered: bool,
    pub(crate) partial: bool,
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
            unit: 1,
            near: None,
            scattered: false,
            partial: false,
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

    /// Several extents whose lengths sum to the requested length: all of it or an error, unless
    /// [`partial`](Request::partial) is called too. Long extents are preferred.
    ///
    /// Bounds, an alignment and a unit are met whenever some cut of the free runs meets them, while
    /// nothing else runs. A request that the passes over the summary do not meet lists the free runs
    /// once: O(leaves that may have a fitting run), and memory for as many runs as it can have
    /// extents.
    #[must_use]
    pub const fn scattered(mut self) -> Self {
        self.scattered = true;
        self
    }

    /// The shortest extent of a scattered request, in blocks; 1 by default. A partial answer may be
    /// shorter than the requested length, but its extents keep to this bound as well.
    #[must_use]
    pub const fn min_extent(mut self, blocks: u64) -> Self {
        self.min_extent = blocks;
        self
    }

    /// The longest extent of a scattered request, in blocks; unlimited by default.
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

    /// Every extent is a multiple of `blocks` long and starts at such a multiple; 1 by default. For
    /// devices whose allocation unit is larger than a block, or whose stripes must be whole. The
    /// requested length has to be a multiple as well (a [partial](Self::partial) answer then is
    /// one). [`min_extent`](Self::min_extent) is rounded up to a multiple, and
    /// [`max_extent`](Self::max_extent) down. Combines with [`align`](Self::align): extents start at
    /// common multiples of both.
    #[must_use]
    pub const fn unit(mut self, blocks: u64) -> Self {
        self.unit = blocks;
        self
    }

    /// Begins the search at `block` and wraps round at the end of the device. The extent found is
    /// close behind `block`, not always the closest.
    #[must_use]
    pub const fn near(mut self, block: u64) -> Self {
        self.near = Some(block);
        self
    }

    /// Lets a scattered request take what there is, down to a single extent, instead of failing
    /// because fewer blocks than requested are available: as many as extents within its bounds can
    /// cover, while nothing else runs. It still fails if nothing is.
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

    /// Limits the leaves (512 blocks each) that a scattered request reads in search of long
    /// extents. Beyond the limit it takes whatever extents come first. Extents that its handle
    /// remembers need no read. Without a limit the request reads every leaf that may have a longer
    /// run than what is left to take, one size after another: in the worst case all leaves of the
    /// device. But a handle that has read n leaves for a size and found nothing relies on what it
    /// remembers for the next 4 n requests, at most 4096, or 64 where a run for the whole request
    /// was sought: it may miss longer extents that others freed meanwhile. Requests that say where
    /// to look ([`near`](Self::near), a placed class, a stream)
    /// always read, and so do those whose extents have a lower bound, an alignment or a unit. The
    /// limit makes no request fail. See [`Effort`].
    #[must_use]
    pub const fn effort(mut self, leaves: u64) -> Self {
        self.effort = leaves;
        self
    }

    /// Whether any pieces of runs will do, wherever they start.
    pub(crate) fn takes_any_pieces(&self) -> bool {
        (self.min_extent, self.align, self.unit) == (1, 1, 1)
    }

    /// Whether any free blocks will do, wherever they are.
    pub(crate) fn takes_any_blocks(&self) -> bool {
        (self.scattered || self.len == 1) && self.takes_any_pieces()
    }

    /// Checks the length of a request without bounds against a device of `blocks` blocks.
    #[inline]
    pub(crate) fn check_len(&self, blocks: u64) -> Result<(), RequestError> {
        match self.len {
            0 => Err(RequestError::ZeroLength),
            len if len > blocks => Err(RequestError::TooLong { len, blocks }),
            _ => Ok(()),
        }
    }

    /// Checks the request against a device of `blocks` blocks. Returns it with an alignment and
    /// bounds that are multiples of the unit.
    pub(crate) fn checked(&self, blocks: u64) -> Result<Self, RequestError> {
        let Self { len, min_extent: min, max_extent: max, align, unit, .. } = *self;
        self.check_len(blocks)?;
        if min == 0 || min > max {
            return Err(RequestError::ExtentBounds { min, max });
        }
        if let Some(block) = self.near.filter(|&block| block >= blocks) {
            return Err(RequestError::NearOutside { block, blocks });
        }
        let some = self.scattered && self.partial;
        if unit == 0 || (len % unit != 0 && !some) {
            return Err(RequestError::Unit { len, unit });
        }
        let align = if unit == 1 { align } else { common_multiple(align, unit) };
        if align == 0 || align > blocks {
            return Err(RequestError::Align { align, blocks });
        }
        // A longest extent of a whole device is none.
        let (shortest, longest) =
            (min.checked_next_multiple_of(unit), max.min(blocks) / unit * unit);
        let Some(shortest) = shortest.filter(|&shortest| shortest <= longest) else {
            return Err(if min <= blocks {
                RequestError::ExtentBounds { min, max }
            } else {
                RequestError::Indivisible { len, min, max }
            });
        };
        let bounds = Bounds { min: shortest, max: longest, align, unit };
        let whole =
            if self.scattered { bounds.divides(len) } else { (shortest..=longest).contains(&len) };
        if !(whole || (some && bounds.most_of(len) > 0)) {
            return Err(RequestError::Indivisible { len, min, max });
        }
        Ok(Self { min_extent: shortest, max_extent: longest, align, ..*self })
    }

    /// The most blocks that an answer to a [checked](Self::checked) request can have.
    pub(crate) fn goal(&self) -> u64 {
        let some = self.partial && self.scattered;
        if some { self.bounds().most_of(self.len) } else { self.len }
    }

    /// The bounds of the extents of a [checked](Self::checked) request.
    pub(crate) fn bounds(&self) -> Bounds {
        let Self { min_extent: min, max_extent: max, align, unit, .. } = *self;
        Bounds { min, max, align, unit }
    }

    /// Whether `extents` are an answer to the request.
    pub(crate) fn is_met_by(&self, extents: &[Extent]) -> bool {
        let blocks = blocks_of(extents);
        let enough = blocks == self.len || (self.partial && 0 < blocks && blocks < self.len);
        let lens = self.min_extent..=self.max_extent;
        let fits =
            |extent: &Extent| lens.contains(&extent.len) && extent.start.is_multiple_of(self.align);
        enough && extents.iter().all(fits) && (self.scattered || extents.len() == 1)
    }
}

/// The least common multiple; `u64::MAX` if it is larger than that.
fn common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a.checked_div(divisor).map_or(0, |times| times.saturating_mul(b))
}

/// What it took to meet a request: see
/// [`Handle::allocate_reported`](crate::Handle::allocate_reported).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effort {
    /// Leaves (512 blocks each) read for the extents of a scattered request. 0 for other requests,
    /// and if all of it was found in one extent at once or in extents that the handle remembered.
    pub leaves: u64,
    /// Whether the limit of [`Request::effort`] was reached, so that longer extents may exist.
    pub gave_up: bool,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The largest common multiple of a unit and an alignment below that a device can have.
    const BLOCKS: u64 = 6;

    fn all_requests() -> impl Iterator<Item = Request> {
        let pairs = |a: u64, b: u64| (0..a).flat_map(move |a| (0..b).map(move |b| (a, b)));
        pairs(BLOCKS + 2, 6).flat_map(move |(len, max)| {
            pairs(5, 5).flat_map(move |(align, unit)| {
                pairs(4, 4).map(move |(min, shape)| Request {
                    min_extent: if min == 3 { BLOCKS + 1 } else { min },
                    max_extent: if max == 5 { u64::MAX } else { max },
                    align: if align == 4 { BLOCKS + 1 } else { align },
                    unit,
                    scattered: shape & 1 == 1,
                    partial: shape & 2 == 2,
                    ..Request::new(len)
                })
            })
        })
    }

    /// Which sums extents of the request can have.
    fn sums(request: &Request) -> Vec<bool> {
        let mut reached = vec![false; BLOCKS as usize + 1];
        reached[0] = true;
        let lens = request.min_extent.max(1)..=request.max_extent.min(BLOCKS);
        for len in lens.filter(|len| len.is_multiple_of(request.unit)) {
            for end in len as usize..reached.len() {
                reached[end] |=
                    if request.scattered { reached[end - len as usize] } else { end as u64 == len };
            }
        }
        reached
    }

    #[test]
    fn a_request_is_accepted_if_some_extents_have_its_length_and_refused_for_what_is_wrong() {
        for request in all_requests() {
            let Request { len, min_extent: min, max_extent: max, align, unit, .. } = request;
            let some = request.scattered && request.partial;
            let sums = sums(&request);
            let most = (1..=len.min(BLOCKS)).rev().find(|&sum| sums[sum as usize]);
            let step = (1..=BLOCKS).find(|at| at.is_multiple_of(align) && at.is_multiple_of(unit));
            let multiple = (min..=max.min(2 * BLOCKS)).any(|len| len.is_multiple_of(unit));
            match request.checked(BLOCKS) {
                Ok(checked) => {
                    assert_eq!(Some(checked.goal()), most, "{request:?}");
                    assert!(some || most == Some(len), "{request:?}");
                    assert!((1..=BLOCKS).contains(&len) && min > 0);
                    assert_eq!(Some(checked.align), step, "{request:?}");
                    let Bounds { min: shortest, max: longest, .. } = checked.bounds();
                    let fits = |len: &u64| len.is_multiple_of(unit);
                    assert_eq!(Some(shortest), (min..).find(fits), "{request:?}");
                    assert_eq!(Some(longest), (0..=max.min(BLOCKS)).rfind(fits), "{request:?}");
                }
                Err(RequestError::ZeroLength) => assert_eq!(len, 0),
                Err(RequestError::TooLong { .. }) => assert!(len > BLOCKS),
                Err(RequestError::ExtentBounds { .. }) => {
                    assert!(min == 0 || min > max || !multiple || min <= BLOCKS && most.is_none());
                }
                Err(RequestError::Unit { .. }) => assert!(unit == 0 || !(some || len % unit == 0)),
                Err(RequestError::Align { .. }) => assert_eq!(step, None, "{request:?}"),
                Err(RequestError::Indivisible { .. }) => {
                    assert!(if some { most.is_none() } else { most != Some(len) }, "{request:?}");
                    assert!((1..=max).contains(&min));
                }
                Err(error) => panic!("{error} for {request:?}"),
            }
        }
    }

    #[test]
    fn a_request_near_a_block_is_refused_if_the_device_does_not_have_it() {
        for block in 0..2 * BLOCKS {
            let refused = RequestError::NearOutside { block, blocks: BLOCKS };
            let checked = Request::new(1).near(block).checked(BLOCKS).map(|request| request.near);
            assert_eq!(checked, if block < BLOCKS { Ok(Some(block)) } else { Err(refused) });
        }
    }

    #[test]
    fn an_answer_has_the_blocks_and_extents_asked_for() {
        let extents = (0..3u64).flat_map(|start| (1..4).map(move |len| Extent::new(start, len)));
        let extents: Vec<Extent> = extents.collect();
        let mut lists = vec![vec![]];
        lists.extend(extents.iter().map(|&extent| vec![extent]));
        lists.extend(extents.iter().flat_map(|&first| {
            extents
                .iter()
                .map(move |&second| vec![first, Extent { start: 4 + second.start, ..second }])
        }));
        for request in all_requests().filter_map(|request| request.checked(BLOCKS).ok()) {
            for list in &lists {
                let blocks: u64 = list.iter().map(|extent| extent.len).sum();
                let some = request.scattered && request.partial && blocks < request.len;
                let naive = (blocks == request.len || some)
                    && (list.len() == 1 || list.len() > 1 && request.scattered)
                    && list.iter().all(|extent| extent.len >= request.min_extent)
                    && list.iter().all(|extent| extent.len <= request.max_extent)
                    && list.iter().all(|extent| extent.start % request.align == 0);
                if request.scattered || !request.partial {
                    assert_eq!(request.is_met_by(list), naive, "{request:?} {list:?}");
                }
            }
        }
    }

    #[test]
    fn requests_that_take_any_blocks_are_met_by_single_ones_anywhere() {
        let all =
            all_requests().filter_map(|request| Some((request, request.checked(BLOCKS).ok()?)));
        for (request, checked) in all {
            let single: Vec<Extent> = (0..request.len).map(|n| Extent::new(2 * n + 1, 1)).collect();
            assert_eq!(request.takes_any_blocks(), checked.is_met_by(&single), "{request:?}");
            let scattered = checked.scattered().is_met_by(&single);
            assert_eq!(request.takes_any_pieces(), scattered, "{request:?}");
        }
    }
}
