//! A lock-free queue of extents with stamps.
//!
//! The queue of Michael and Scott (1996) on nodes named by index. A node is never given back to the
//! system, so a thread that stopped in the middle can still read it. A *link* carries a tag beside
//! the index, so that the thread does not mistake the node for what it was before. Unused nodes
//! form a stack. Only a push that finds no unused node takes memory from the heap or gives it back.
//!
//! # Invariants
//! 1. *Tags.* A link that is written to a word (`head`, `tail`, `unused`, or a node's `next`) has a
//!    tag one above that of the link before. So a compare-exchange succeeds only if the word was
//!    not written since.
//! 2. *Shape.* Following `next` from `head` leads to the last node, whose `next` is no node. `tail`
//!    is on that path, at most one node before the last for each unfinished push; `head` never
//!    passes it. The first node is a dummy with old contents.
//! 3. *Ownership.* A node is in the queue, on the stack of unused nodes, or in the hands of one
//!    thread, which alone writes its contents and its `next`. In the queue, its contents do not
//!    change, and its `next` changes only from no node to its successor.
//! 4. *Contents.* A pop reads the contents of the node behind the dummy before the compare-exchange
//!    of `head`. If that succeeds, `head` was not written since, so the node was in the queue all
//!    the time and by 3 the contents are its own.
//!
//! *Lock-freedom.* A loop repeats only because another thread changed `head`, `tail`, a last node
//! or `unused`; the other threads move a `tail` that a stopped thread left behind. A thread that
//! stops keeps at most one node to itself.

use crossbeam_utils::CachePadded;

use crate::base::heap::OutOfMemory;
use crate::base::mutant::{fault, step};
use crate::base::segmented::Segmented;
use crate::base::sync::{AtomicWord, Site};

/// Number of nodes of a new queue: 1.5 KiB.
const FIRST_NODES: usize = if cfg!(loom) { 2 } else { 64 };

/// Bits of a link for the index and one more value: room for 2^28 nodes, 6 GiB. The other bits are
/// the tag: at ten million writes a second it wraps in two hours.
const INDEX_BITS: u32 = 28;

/// `[tag: 36 | index + 1: 28]`; 0 in place of `index + 1` is no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link(u64);

impl Link {
    const MASK: u64 = (1 << INDEX_BITS) - 1;

    /// The node, if there is one.
    fn node(self) -> Option<u32> {
        (self.0 & Self::MASK).checked_sub(1).map(|index| index as u32)
    }

    /// The node of a link that always has one.
    fn known(self) -> u32 {
        debug_assert!(self.node().is_some());
        (self.0 & Self::MASK).wrapping_sub(1) as u32
    }

    /// The link that replaces this one.
    fn then(self, node: Option<u32>) -> Self {
        let mut tag = (self.0 >> INDEX_BITS).wrapping_add(1);
        fault!(TagIsKept: tag = self.0 >> INDEX_BITS);
        Self(tag << INDEX_BITS | node.map_or(0, |index| u64::from(index) + 1))
    }
}

/// A word that holds a link.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
struct LinkWord(AtomicWord<u64>);

impl LinkWord {
    fn to(node: Option<u32>) -> Self {
        Self(AtomicWord::new(node.map_or(0, |index| u64::from(index) + 1)))
    }

    fn load(&self) -> Link {
        Link(self.0.load(Site::Link))
    }

    /// Replaces `seen` by a link to `node`; returns whether `seen` was still there.
    fn replace(&self, seen: Link, node: Option<u32>) -> bool {
        self.0.compare_exchange(seen.0, seen.then(node).0, Site::Link).is_ok()
    }

    /// The same for the only writer.
    fn set(&self, node: Option<u32>) {
        self.0.store(self.load().then(node).0, Site::Link);
    }
}

#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
struct Node {
    next: LinkWord,
    what: AtomicWord<u64>,
    stamp: AtomicWord<u64>,
}

impl Node {
    /// `count` nodes in untouched memory.
    fn zeros(count: usize) -> Result<Vec<Self>, OutOfMemory> {
        #[cfg(not(loom))]
        return crate::base::heap::zeroed(count);
        #[cfg(loom)]
        Ok((0..count)
            .map(|_| Self {
                next: LinkWord::to(None),
                what: AtomicWord::new(0),
                stamp: AtomicWord::new(0),
            })
            .collect())
    }
}

/// A queue of pairs of words: contents, and a stamp that says when they may be taken out.
#[derive(Debug)]
pub(crate) struct Queue {
    head: CachePadded<LinkWord>,
    tail: CachePadded<LinkWord>,
    /// The stack of unused nodes.
    unused: CachePadded<LinkWord>,
    nodes: Segmented<Vec<Node>>,
    /// Nodes from this index on were never used.
    fresh: AtomicWord<u64>,
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new() -> Result<Self, OutOfMemory> {
        // The first node is the dummy.
        let link = |node| CachePadded::new(LinkWord::to(node));
        Ok(Self {
            head: link(Some(0)),
            tail: link(Some(0)),
            unused: link(None),
            nodes: Segmented::new(Node::zeros(FIRST_NODES)?),
            fresh: AtomicWord::new(1),
        })
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    /// Puts `what` at the end; `false` if there is no memory for it. Takes memory from the heap
    /// only if the queue is longer than ever before.
    #[must_use]
    pub(crate) fn push(&self, what: u64, stamp: u64) -> bool {
        let Some(index) = self.take_unused() else { return false };
        let node = self.node(index);
        node.what.store(what, Site::Node);
        node.stamp.store(stamp, Site::Node);
        node.next.set(None);
        loop {
            let tail = self.tail.load();
            let last = tail.known();
            let next = self.node(last).next.load();
            // Was the node the last one when its `next` was read? If not, that `next` may be from
            // another life of the node (invariant 2) [mutant: PushWithoutRecheck].
            let mut moved = self.tail.load() != tail;
            fault!(PushWithoutRecheck: moved = false);
            if moved {
                continue;
            }
            if let Some(next) = next.node() {
                // Another push has not moved the tail yet, and may never do so
                // [mutant: TailIsAwaited].
                step!(TailIsAwaited: self.tail.replace(tail, Some(next)););
                continue;
            }
            if self.node(last).next.replace(next, Some(index)) {
                // If this fails, another thread has moved the tail.
                self.tail.replace(tail, Some(index));
                return true;
            }
        }
    }

    /// Takes out the first item, if its stamp is below `floor`.
    pub(crate) fn pop_below(&self, floor: u64) -> Option<u64> {
        loop {
            let head = self.head.load();
            let tail = self.tail.load();
            let dummy = head.known();
            let next = self.node(dummy).next.load();
            // Double-check as in `push` [mutant: PopWithoutRecheck].
            let mut moved = self.head.load() != head;
            fault!(PopWithoutRecheck: moved = false);
            if moved {
                continue;
            }
            let first = next.node()?;
            let mut behind = tail.node() == Some(dummy);
            fault!(HeadPassesTail: behind = false);
            if behind {
                // The tail may not stay behind: its node would become unused while pushes still
                // read it.
                self.tail.replace(tail, Some(first));
                continue;
            }
            let node = self.node(first);
            let mut what = node.what.load(Site::Node);
            let stamp = node.stamp.load(Site::Node);
            let mut ripe = stamp < floor;
            fault!(CollectUnripe: ripe = true);
            if !ripe {
                // A stamp from another life of the node says nothing
                // [mutant: UnripeWithoutRecheck].
                fault!(UnripeWithoutRecheck: return None);
                if self.head.load() == head {
                    return None;
                }
                continue;
            }
            if self.head.replace(head, Some(first)) {
                fault!(ContentsAfterPop: what = node.what.load(Site::Node));
                self.put_back(dummy);
                return Some(what);
            }
        }
    }

    /// A value that changes with every pop.
    pub(crate) fn position(&self) -> u64 {
        self.head.load().0
    }

    /// An unused node.
    fn take_unused(&self) -> Option<u32> {
        loop {
            let top = self.unused.load();
            let Some(index) = top.node() else { return self.take_fresh() };
            let next = self.node(index).next.load();
            if self.unused.replace(top, next.node()) {
                return Some(index);
            }
        }
    }

    fn put_back(&self, index: u32) {
        loop {
            let top = self.unused.load();
            self.node(index).next.set(top.node());
            if self.unused.replace(top, Some(index)) {
                return;
            }
        }
    }

    /// A node that was never used. If several threads need more memory at the same moment, each
    /// takes it, and all but one give it back.
    #[cold]
    fn take_fresh(&self) -> Option<u32> {
        loop {
            let index = self.fresh.load(Site::Link);
            if index >= Link::MASK {
                return None;
            }
            if !self.nodes.has(index as usize) {
                self.nodes.grow(index as usize + 1, |range| Node::zeros(range.len())).ok()?;
            }
            if self.fresh.compare_exchange(index, index + 1, Site::Link).is_ok() {
                return Some(index as u32);
            }
        }
    }

    /// Bytes of the nodes. At most half of them were never used, nor touched.
    pub(crate) fn bytes(&self) -> usize {
        self.nodes.bytes()
    }
}
