//! What freemap's placement is compared with: allocators that keep a tree of all free runs, for one
//! thread, and put every request where their rule says, wherever on the device that is.

use std::collections::{BTreeMap, BTreeSet};

use freemap::Extent;

/// Something that allocates objects.
pub trait Space {
    /// Takes `len` blocks, in one extent if there is such a run; `false` if there are not so many.
    fn allocate(&mut self, len: u64, extents: &mut Vec<Extent>) -> bool;
    /// Gives an extent back.
    fn free(&mut self, extent: Extent);
    /// The lengths of all free runs, ascending by place.
    fn runs(&self) -> Vec<u64>;
}

/// An allocator that keeps all free runs, and its rule. A request that fits into none of them is served
/// piece by piece.
trait Tree {
    /// Where the run begins that the rule has for `len` blocks.
    fn fit(&self, len: u64) -> Option<u64>;
    /// The run that the rule has for the next piece, where none is long enough.
    fn piece(&self) -> Option<Extent>;
    /// Takes the first `len` blocks of the run at `start`.
    fn take(&mut self, start: u64, len: u64) -> Extent;
    /// Puts an extent back.
    fn put(&mut self, extent: Extent);
    /// The free runs.
    fn runs(&self) -> &Runs;
}

impl<T: Tree> Space for T {
    fn allocate(&mut self, len: u64, extents: &mut Vec<Extent>) -> bool {
        if let Some(start) = self.fit(len) {
            extents.push(self.take(start, len));
            return true;
        }
        let before = extents.len();
        let mut left = len;
        while left > 0 {
            let Some(run) = self.piece() else {
                extents.drain(before..).for_each(|extent| self.put(extent));
                return false;
            };
            let extent = self.take(run.start, run.len.min(left));
            extents.push(extent);
            left -= extent.len;
        }
        true
    }

    fn free(&mut self, extent: Extent) {
        self.put(extent);
    }

    fn runs(&self) -> Vec<u64> {
        Tree::runs(self).0.values().copied().collect()
    }
}

/// The free runs: start to length.
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Puts `extent` in, joined with its neighbours; what it has become, and the neighbours.
    fn join(&mut self, extent: Extent) -> (Extent, [Option<Extent>; 2]) {
        let run = |(&start, &len): (&u64, &u64)| Extent { start, len };
        let end = extent.start + extent.len;
        let before = self.0.range(..extent.start).next_back().map(run);
        let before = before.filter(|before| before.start + before.len == extent.start);
        let after = self.0.get(&end).map(|&len| Extent::new(end, len));
        let mut whole = extent;
        for neighbour in [before, after].into_iter().flatten() {
            self.0.remove(&neighbour.start);
            whole.start = whole.start.min(neighbour.start);
            whole.len += neighbour.len;
        }
        self.0.insert(whole.start, whole.len);
        (whole, [before, after])
    }

    /// Takes the first `len` blocks of the run at `start`; the run and what is left of it.
    fn take(&mut self, start: u64, len: u64) -> (Extent, Option<Extent>) {
        let whole = self.0.remove(&start).expect("a free run");
        let rest = (whole > len).then(|| Extent::new(start + len, whole - len));
        if let Some(rest) = rest {
            self.0.insert(rest.start, rest.len);
        }
        (Extent::new(start, whole), rest)
    }
}

/// Plain first fit: the lowest run that is long enough; if there is none, the lowest runs.
pub struct FirstFit {
    runs: Runs,
    /// The longest run that begins in each part of the device, so that a search need not look at
    /// every run.
    longest: Vec<u64>,
}

const PART: u64 = 1024;

impl FirstFit {
    pub fn new(blocks: u64) -> Self {
        let runs = Runs(BTreeMap::from([(0, blocks)]));
        let mut longest = vec![0; blocks.div_ceil(PART) as usize];
        longest[0] = blocks;
        Self { runs, longest }
    }

    fn refresh(&mut self, start: u64) {
        let part = start / PART;
        let longest = self.runs.0.range(part * PART..(part + 1) * PART).map(|(_, &len)| len).max();
        self.longest[part as usize] = longest.unwrap_or(0);
    }
}

impl Tree for FirstFit {
    fn fit(&self, len: u64) -> Option<u64> {
        let part = self.longest.iter().position(|&longest| longest >= len)?;
        let mut runs = self.runs.0.range(part as u64 * PART..);
        runs.find(|&(_, &run)| run >= len).map(|(&start, _)| start)
    }

    fn piece(&self) -> Option<Extent> {
        self.runs.0.first_key_value().map(|(&start, &len)| Extent::new(start, len))
    }

    fn take(&mut self, start: u64, len: u64) -> Extent {
        let (_, rest) = self.runs.take(start, len);
        self.refresh(start);
        if let Some(rest) = rest {
            self.refresh(rest.start);
        }
        Extent::new(start, len)
    }

    fn put(&mut self, extent: Extent) {
        let (whole, neighbours) = self.runs.join(extent);
        self.refresh(whole.start);
        neighbours.into_iter().flatten().for_each(|neighbour| self.refresh(neighbour.start));
    }

    fn runs(&self) -> &Runs {
        &self.runs
    }
}

/// Best fit: of the runs that are long enough the shortest, of those the lowest; if there is none, the
/// longest runs. What ZFS and Ceph do with their range trees when space is short.
pub struct RangeTree {
    runs: Runs,
    by_len: BTreeSet<(u64, u64)>,
}

impl RangeTree {
    pub fn new(blocks: u64) -> Self {
        Self { runs: Runs(BTreeMap::from([(0, blocks)])), by_len: BTreeSet::from([(blocks, 0)]) }
    }
}

impl Tree for RangeTree {
    fn fit(&self, len: u64) -> Option<u64> {
        self.by_len.range((len, 0)..).next().map(|&(_, start)| start)
    }

    fn piece(&self) -> Option<Extent> {
        self.by_len.last().map(|&(len, start)| Extent::new(start, len))
    }

    fn take(&mut self, start: u64, len: u64) -> Extent {
        let (whole, rest) = self.runs.take(start, len);
        self.by_len.remove(&(whole.len, whole.start));
        self.by_len.extend(rest.map(|rest| (rest.len, rest.start)));
        Extent::new(start, len)
    }

    fn put(&mut self, extent: Extent) {
        let (whole, neighbours) = self.runs.join(extent);
        for neighbour in neighbours.into_iter().flatten() {
            self.by_len.remove(&(neighbour.len, neighbour.start));
        }
        self.by_len.insert((whole.len, whole.start));
    }

    fn runs(&self) -> &Runs {
        &self.runs
    }
}
