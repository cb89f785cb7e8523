//! Faults that the model checker can switch on, one at a time, to show that the scenarios would
//! notice each protocol step being dropped, reordered or weakened.
//!
//! In an ordinary build [`mutated`] is the constant `false` and every switch folds away. Under
//! `--cfg loom` the runner in `loom-tests` selects one mutant for the whole process.

macro_rules! mutants {
    ($($(#[doc = $doc:expr])* $name:ident,)*) => {
        /// A deliberate fault at one step of the index protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(loom), expect(dead_code, reason = "selected only by the model checker"))]
        #[repr(u8)]
        pub(crate) enum Mutant { $($(#[doc = $doc])* $name,)* }

        #[cfg(loom)]
        impl Mutant {
            /// Every mutant with its name.
            pub(crate) const ALL: &'static [(Mutant, &'static str)] =
                &[$((Mutant::$name, stringify!($name)),)*];
        }
    };
}

mutants! {
    /// A number is lowered without a second look at the leaf.
    DropRecheck,
    /// The second look happens before the number is lowered.
    RecheckBeforeClear,
    /// A number goes back to what the leaf has, even above what it was.
    RestoreUncapped,
    /// A number goes back to what the repair saw, even if a release raised it meanwhile.
    RestoreOverwrites,
    /// A repair releases the guard whatever is wanted.
    RestoreForgetsWant,
    /// The guard is released before a number goes back to what the leaf has.
    ReleaseGuardBeforeRestore,
    /// A second thread lowers the number although the guard is taken.
    GuardNotExclusive,
    /// A number is lowered without taking the guard.
    NoGuard,
    /// A release stops at a number with a guard.
    FastIgnoresGuard,
    /// A release raises a number without taking the guard.
    SetWithoutGuard,
    /// A release lets the guard go before it has been through the levels above.
    SetterReleasesEarly,
    /// A release does not go through the levels above.
    SetterStopsAtLevelOne,
    /// A release leaves no want with a guard that another thread holds.
    NoWant,
    /// A release that leaves a want leaves the levels above to the holder of the guard.
    WantWithoutWalk,
    /// The holder of a guard takes a want away without going through the levels above.
    ServeWithoutWalk,
    /// The holder of a guard releases it whatever is wanted.
    WantForgotten,
    /// No second look above level 1.
    DropUpRecheck,
    /// A restored bit is not carried to the levels above.
    RestoreNoEnsureUp,
    /// Above level 1, the guard is released before a wrong clear is undone.
    UpReleaseGuardBeforeRestore,
    /// Above level 1, a second thread clears although the guard is taken.
    UpGuardNotExclusive,
    /// Above level 1, a clear takes no guard.
    UpNoGuard,
    /// The looks above level 1 take no notice of the child's guards.
    UpIgnoresGuard,
    /// A restored bit does not lift the watch.
    RestoreNoEvent,
    /// A restored bit lifts the watch only if an aligned run of its order holds the awaited length.
    RestoreWrongOrder,
    /// The guard is released after the restore, before the levels above are set and the watch is
    /// lifted.
    GuardReleasedBeforeEnsureUp,
    /// Above level 1, a look reads the guard before the order word.
    ReadGuardThenHas,
    /// A top node is counted whenever it shows one more child, not only the first.
    CountTopWithEveryChild,
    /// A top node that no longer shows anything is still counted.
    NeverUncountTop,
    /// The summary is published before the leaf changes.
    SetBeforeLeaf,
    /// Publishing stops at level 2.
    NoPropagateUp,
    /// Publishing stops at the first bit found set above level 1.
    StopAtFirstSetBit,
    /// Nothing is published when the word already had a run as large.
    EnsureOnlyOnTransition,
    /// Only the order of the freed range itself is published.
    EnsureOnlyOwnOrder,
    /// Orders wider than a word are never derived from the sibling words.
    NoSiblingLook,
    /// The published orders are computed from the word as it was before the release.
    SetFromOldWord,
    /// A claim is a load and a store.
    NonAtomicClaim,
    /// A claim that failed half way reports success.
    OkAfterFailedClaim,
    /// A claim that failed half way keeps its words.
    NoRollback,
    /// A failed claim does not publish the words it gives back.
    RollbackNoEnsure,
    /// A failed claim does not lift the watch for the words it gives back.
    RollbackNoEvent,
    /// CONTROL, must survive: a claim of several words starts without reading all words first.
    NoPrecheckRollbackAll,
    /// A release uses fetch_or.
    FreeFetchOr,
    /// A release of several words does not read all of them first.
    FreeNoVerifyPass,
    /// The release loop does not check for bits that are already free.
    FreeNoCheckInCas,
    /// "No" is answered without a second look at the watch.
    NoEventValidation,
    /// A release lifts the watch before it publishes.
    EventBeforeEnsure,
    /// A release never lifts the watch.
    NoEventOnFree,
    /// "No" is answered from numbers and order words alone.
    SearchIgnoresGuard,
    /// A release measures only the blocks it gave back, not the run they completed.
    EventWrongOrder,
    /// A release within one word takes its own blocks for the run that it completed.
    ShortByOwnBlocks,
    /// A rollback over several leaves is not published.
    RunRollbackNoEnsure,
    /// A rollback over several leaves forgets its first word.
    RunRollbackPartial,
    /// Every access is AcqRel.
    WeakAll,
    /// AcqRel from the release in the leaf to the look at the summary.
    WeakSetterAfterLeaf,
    /// AcqRel from the clear to the second look.
    WeakClearer,
    /// AcqRel between the looks at two summary levels.
    WeakSetterBetweenLevels,
    /// AcqRel from the raising of a number, or setting of a bit, to the look at the next level.
    WeakRaise,
    /// AcqRel from the release in the leaf to the look at the sibling words.
    WeakSibling,
    /// Every access is Relaxed.
    RelaxedAll,
    /// The watch is only read before the search; no length is registered.
    WatchAfterSearch,
    /// A lifted watch keeps its version.
    LiftKeepsVersion,
    /// A release reads the watch before its blocks are in the leaf.
    WatchReadBeforeLeaf,
    /// AcqRel from the last step of a release to the look at the watch.
    WeakWatch,
    /// A pin does not check that it is counted in the current epoch.
    PinWithoutRecheck,
    /// AcqRel from the counting of a pin to the second look at the epoch.
    WeakPin,
    /// AcqRel from the stamp to the looks at the pin counts.
    WeakStamp,
    /// AcqRel from the look at the epoch for a floor to the looks at the pin counts.
    WeakFloor,
    /// A pin ends by a relaxed change.
    RelaxedUnpin,
    /// A retired extent is stamped with the epoch before, even if the current one has pins.
    StampTooOld,
    /// A retired extent is stamped by a plain load.
    StampByLoad,
    /// A retired extent is let out at once if only older epochs have pins.
    OlderPinsForgotten,
    /// A floor depends on the pins alone, not on the epoch.
    FloorWithoutEpoch,
    /// A generation is freed although it has pins.
    PinnedIsFreed,
    /// The generation of the current epoch is freed if it has no pins.
    CurrentIsFreed,
    /// A generation prepared for the next epoch is freed.
    PreparedIsFreed,
    /// Later scans skip a generation that is used for the first time.
    UsedIsNotCounted,
    /// A generation is given to an epoch after that epoch has begun.
    BeganAfterAdvance,
    /// Extents are let out whatever their stamp.
    CollectUnripe,
    /// A link is written with the tag of the link before.
    TagIsKept,
    /// A push does not check that the node was the last one when its link was read.
    PushWithoutRecheck,
    /// A push waits until another one has moved the tail.
    TailIsAwaited,
    /// A pop does not check that the node was the first one when its link was read.
    PopWithoutRecheck,
    /// A pop trusts the stamp it read for that of the first node, without checking that the node is
    /// still the first.
    UnripeWithoutRecheck,
    /// A pop leaves the tail behind.
    HeadPassesTail,
    /// A pop reads what was in a node after the node may be used again.
    ContentsAfterPop,
    /// A transaction decides by an earlier load whether a block was already marked.
    MarkByLook,
    /// Blocks are let out before their marks are cleared.
    LetOutBeforeUnmark,
    /// A committer that has its result does not wake the next leader.
    LeadIsKept,
    /// A thread called to lead that finds its work done leaves the other threads uncalled.
    CallIsKept,
    /// A blocked thread is not woken when its result is there.
    ResultIsNotTold,
    /// The next leader is never woken.
    LeadIsDropped,
    /// A leader at work is not marked as one.
    LeaderNotMarked,
    /// A flush during a leader's work is forgotten.
    FlushIsForgotten,
    /// Threads that wait for room are not told that the queue was taken.
    RoomIsNotTold,
    /// Threads that wait for room behind a leader are not told that the leader has finished.
    RoomIsNotPassedOn,
    /// Threads that wait for room are not told that an item was withdrawn.
    WithdrawnIsNotTold,
    /// A flusher counts as a flusher while it wakes other threads.
    WakesAsFlusher,
    /// A closed flusher ends although something is queued behind a leader.
    FlusherLeavesWork,
    /// A flusher that was stopped behind a leader is not told that the leader has finished.
    StopIsKept,
    /// A change is entered in the ledger by a load and a store.
    EnterByLook,
    /// A transaction that is given up lets its blocks out before it leaves the ledger.
    LetOutBeforeLeave,
    /// The number of blocks is raised before the leaves are there.
    LengthBeforeLeaves,
    /// A claim does not check whether its blocks are closed.
    ClaimWithoutLook,
    /// A thread that sets blocks aside does not check whether their leaf was opened meanwhile.
    AsideWithoutLook,
    /// Opening looks for blocks set aside first, and clears the marks afterwards.
    OpenAfterLook,
    /// A taker of a range does not make sure that it gets all of it.
    TakeWithoutAll,
    /// A taker that does not get all of a range keeps what it got.
    TakeWithoutPutBack,
    /// A sweep of a leaf does not check whether the leaf was opened meanwhile.
    SweepWithoutLook,
    /// A thread that queues blocks to be discarded does not check whether discarding is still on.
    PendingWithoutLook,
    /// The same, if only a part of the blocks was queued because another thread frees the rest.
    TornWithoutLook,
    /// A batch frees its blocks before they stop counting as with the device.
    FreeBeforeGiveBack,
    /// The last discarder looks for waiting blocks first, and switches discarding off afterwards.
    LimitAfterLook,
    /// A free looks at the run around its blocks before they are there.
    NoteBeforeBlocks,
    /// A request goes through what waits without having registered.
    WalkUnregistered,
    /// A request reads how many notes there are after it has gone through what waits.
    NotesAfterWalk,
    /// The token of a block is there before the block is in escrow.
    TokenBeforeBlock,
    /// Tokens are taken by a load and a store.
    SpareByStore,
    /// A promise that finds no more makes what it held spare, and does not look again.
    NoLastTake,
    /// A block leaves the escrow before another one takes its place.
    OutBeforeIn,
    /// Tokens for blocks that went into the escrow for one that another thread took are forgotten.
    SurplusIsKept,
    /// A request that finds no plan says "no" without a second look at the watch.
    NoPlanWithoutLook,
    /// A planned request that was too late for a piece keeps the others.
    PlanKeepsParts,
    /// The last look for pieces is one pass, without a registration.
    RestByOnePass,
    /// Blocks are owed to a reserve before frees are told to look.
    OweBeforeLook,
    /// Two pairs are not ordered: setting a block aside and reading the mark, and clearing the mark
    /// and looking for blocks.
    WeakClosed,
}

/// What faults do at this step of the protocol: instead of it, or beside it. A reader may skip the
/// line; it folds away in an ordinary build.
macro_rules! fault {
    ($($name:ident)|+: $($what:tt)*) => {
        if $($crate::base::mutant::mutated($crate::base::mutant::Mutant::$name))||+ {
            $($what)*
        }
    };
}

/// A step of the protocol that a fault leaves out.
macro_rules! step {
    ($name:ident: $($step:tt)*) => {
        if !$crate::base::mutant::mutated($crate::base::mutant::Mutant::$name) {
            $($step)*
        }
    };
}

pub(crate) use {fault, step};

/// Whether `mutant` is switched on in this process.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn mutated(_: Mutant) -> bool {
    false
}

#[cfg(loom)]
mod selected {
    use super::Mutant;
    use std::sync::atomic::{AtomicU8, Ordering};

    // A plain std atomic: the selection is fixed before the model starts and is no part of it.
    static SELECTED: AtomicU8 = AtomicU8::new(u8::MAX);

    /// Switches `mutant` on for the rest of the process.
    pub fn select(mutant: Mutant) {
        SELECTED.store(mutant as u8, Ordering::Relaxed);
    }

    /// Whether `mutant` is switched on in this process.
    pub fn mutated(mutant: Mutant) -> bool {
        SELECTED.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(loom)]
pub use selected::{mutated, select};
