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
    /// A summary bit is cleared without looking at the child again.
    DropRecheck,
    /// The second look happens before the clear.
    RecheckBeforeClear,
    /// No second look above level 1.
    DropUpRecheck,
    /// A restored bit is not carried to the levels above.
    RestoreNoEnsureUp,
    /// The guard is released before the wrong clear is undone.
    ReleaseGuardBeforeRestore,
    /// Of several children cleared by mistake only the first is restored.
    RestoreFirstOnly,
    /// The guards of all children are released, whoever took them.
    ReleaseOthersGuards,
    /// A second clearer goes on although the guard is taken.
    GuardNotExclusive,
    /// Clearing without any guard.
    NoGuard,
    /// The second look above level 1 reads the child's order word only.
    UpIgnoresGuard,
    /// A restored bit does not disturb the watch.
    RestoreNoEvent,
    /// A restored bit disturbs those only who wait for a run that holds an aligned one of its order.
    RestoreWrongOrder,
    /// The guard is released after the restore, before the levels above and the watch.
    GuardReleasedBeforeEnsureUp,
    /// The second look reads the child's guard before its order word.
    ReadGuardThenHas,
    /// A top node is counted whenever it shows one more child, not only with the first.
    CountTopWithEveryChild,
    /// A top node that shows nothing any more is still counted.
    NeverUncountTop,
    /// The summary is published before the leaf changes.
    SetBeforeLeaf,
    /// Publishing stops at level 1.
    NoPropagateUp,
    /// Publishing stops at the first bit found set.
    StopAtFirstSetBit,
    /// Publishing is left out when the leaf already had such a run.
    EnsureOnlyOnTransition,
    /// Only the order of the freed range itself is published.
    EnsureOnlyOwnOrder,
    /// Orders wider than a word are never derived from the sibling words.
    NoSiblingLook,
    /// Publishing is computed from the word as it was before the release.
    SetFromOldWord,
    /// A claim is a load and a store.
    NonAtomicClaim,
    /// A claim that failed half way is reported as won.
    OkAfterFailedClaim,
    /// A claim that failed half way keeps its words.
    NoRollback,
    /// Words given back by a failed claim are not published.
    RollbackNoEnsure,
    /// Words given back by a failed claim do not disturb the watch.
    RollbackNoEvent,
    /// CONTROL, must survive: claims of several words start without looking at all words first.
    NoPrecheckRollbackAll,
    /// Release by fetch_or.
    FreeFetchOr,
    /// A release of several words does not look at all of them first.
    FreeNoVerifyPass,
    /// The release loop does not look for bits that are free already.
    FreeNoCheckInCas,
    /// "No" is answered without looking at the watch again.
    NoEventValidation,
    /// A release disturbs the watch before it publishes.
    EventBeforeEnsure,
    /// A release never disturbs the watch.
    NoEventOnFree,
    /// "No" is answered from the order words alone.
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
    /// AcqRel from the release in the leaf to the look at the sibling words.
    WeakSibling,
    /// Every access is Relaxed.
    RelaxedAll,
    /// The watch is read again before the search, not registered before it.
    WatchAfterSearch,
    /// A disturbed watch keeps its version.
    LiftKeepsVersion,
    /// A release looks at the watch before its blocks are in the leaf.
    WatchReadBeforeLeaf,
    /// AcqRel from the last step of a release to the look at the watch.
    WeakWatch,
    /// A pin does not look whether it is counted in the current epoch.
    PinWithoutRecheck,
    /// AcqRel from the counting of a pin to the second look at the epoch.
    WeakPin,
    /// AcqRel from the stamp to the looks at who is pinned.
    WeakStamp,
    /// AcqRel from the look at the epoch for a floor to the looks at who is pinned.
    WeakFloor,
    /// A pin ends by a relaxed change.
    RelaxedUnpin,
    /// What is retired is stamped with the epoch before, whoever is pinned in this one.
    StampTooOld,
    /// What is retired is stamped by a plain load.
    StampByLoad,
    /// What is retired is let out at once if only older epochs have pins.
    OlderPinsForgotten,
    /// A floor goes by the pins alone, not by the epoch.
    FloorWithoutEpoch,
    /// A generation is free again whoever is pinned in it.
    PinnedIsFreed,
    /// The generation of the current epoch is free again, if it has no pins.
    CurrentIsFreed,
    /// A generation that is prepared for the next epoch is free again.
    PreparedIsFreed,
    /// A generation that is used for the first time is not looked at later.
    UsedIsNotCounted,
    /// A generation is given to an epoch after that has begun.
    BeganAfterAdvance,
    /// Extents are let out whatever their stamp.
    CollectUnripe,
    /// A link is written with the tag of the one before.
    TagIsKept,
    /// A push does not look whether the node was the last one when its link was read.
    PushWithoutRecheck,
    /// A push waits until another one has moved the tail.
    TailIsAwaited,
    /// A pop does not look whether the node was the first one when its link was read.
    PopWithoutRecheck,
    /// A pop takes what it read for a stamp of the first node without another look at which that is.
    UnripeWithoutRecheck,
    /// A pop leaves the tail behind.
    HeadPassesTail,
    /// A pop reads what was in a node after the node may be used again.
    ContentsAfterPop,
    /// Who marks a block goes by an earlier look at whether somebody else has.
    MarkByLook,
    /// Blocks are let out before their marks are taken away.
    LetOutBeforeUnmark,
    /// A committer that has its result does not wake the next leader.
    LeadIsKept,
    /// One who was called to lead and found his work done leaves the others uncalled.
    CallIsKept,
    /// Who is blocked is not woken when its result is there.
    ResultIsNotTold,
    /// Nobody ever wakes the next leader.
    LeadIsDropped,
    /// A leader at work is not known as one.
    LeaderNotMarked,
    /// A flush beside a leader is forgotten.
    FlushIsForgotten,
    /// Those who wait for room are not told that the queue was taken.
    RoomIsNotTold,
    /// Those who wait for room behind a leader are not told that he has finished.
    RoomIsNotPassedOn,
    /// Those who wait for room are not told that an item was withdrawn.
    WithdrawnIsNotTold,
    /// A flusher counts as one while it wakes others.
    WakesAsFlusher,
    /// A closed flusher ends although something is queued behind a leader.
    FlusherLeavesWork,
    /// A flusher that was stopped behind a leader is not told of his end.
    StopIsKept,
    /// A change is entered in the ledger by a look and a store.
    EnterByLook,
    /// A transaction that is given up lets its blocks out before it leaves the ledger.
    LetOutBeforeLeave,
    /// The number of blocks is raised before the leaves are there.
    LengthBeforeLeaves,
    /// A claim does not look whether what it took is closed.
    ClaimWithoutLook,
    /// Who set blocks aside does not look whether their leaf was opened meanwhile.
    AsideWithoutLook,
    /// Opening looks for what is set aside first, and clears the marks afterwards.
    OpenAfterLook,
    /// Who takes a range for himself does not see to it that he gets all of it.
    TakeWithoutAll,
    /// Who does not get all of a range keeps what he got.
    TakeWithoutPutBack,
    /// Who sweeps a leaf does not look whether it was opened meanwhile.
    SweepWithoutLook,
    /// Who has blocks wait to be discarded does not look whether anybody still does that.
    PendingWithoutLook,
    /// The last discarder looks for what waits first, and says that it is gone afterwards.
    LimitAfterLook,
    /// The token of a block is there before the block is in escrow.
    TokenBeforeBlock,
    /// Tokens are taken by a look and a store.
    SpareByStore,
    /// Blocks are owed to a reserve before frees are told to look.
    OweBeforeLook,
    /// Setting a block aside and looking at the mark are not ordered, nor clearing it and looking.
    WeakClosed,
}

/// What faults do at this step of the protocol: instead of it, or besides it. A line of its own, which a reader may
/// skip; it folds away in an ordinary build.
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
