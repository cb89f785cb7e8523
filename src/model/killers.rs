//! Which scenario is known to notice which mutant.

use super::{ALL, Scenario};
use crate::base::mutant::{self, Mutant};

/// Mutants that change nothing but speed: they must survive every scenario.
const CONTROLS: &[Mutant] = &[Mutant::NoPrecheckRollbackAll];

/// The names of all mutants.
pub fn mutants() -> Vec<&'static str> {
    Mutant::ALL.iter().map(|&(_, name)| name).collect()
}

fn find(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().find(|(_, other)| *other == name).map(|&(mutant, _)| mutant)
}

/// Switches the mutant of this name on for the rest of the process, if there is one.
pub fn select(name: &str) {
    find(name).into_iter().for_each(mutant::select);
}

/// Whether the mutant of this name must survive every scenario.
pub fn is_control(name: &str) -> bool {
    find(name).is_some_and(|mutant| CONTROLS.contains(&mutant))
}

/// All scenarios, those first that are likely to notice the mutant of this name soon.
pub fn order_for(name: &str) -> Vec<&'static Scenario> {
    find(name).map_or_else(Vec::new, order_of)
}

/// All scenarios, those first that are likely to notice `mutant` soon.
fn order_of(mutant: Mutant) -> Vec<&'static Scenario> {
    use Mutant::*;
    let first: &[&str] = match mutant {
        FastIgnoresGuard | NoWant | WantForgotten | ServeWithoutWalk => &["h6", "h8"],
        SetWithoutGuard | SetterReleasesEarly => &["h8", "h6"],
        SetterStopsAtLevelOne => &["s6"],
        WantWithoutWalk => &["h7"],
        RestoreUncapped | RestoreForgetsWant => &["h8"],
        RestoreOverwrites => &["h2"],
        GuardNotExclusive | ReleaseGuardBeforeRestore => &["s9b"],
        DropRecheck | RecheckBeforeClear => &["s1", "s1u"],
        RestoreNoEnsureUp => &["h10l"],
        UpGuardNotExclusive | RestoreNoEvent | GuardReleasedBeforeEnsureUp => &["h11", "h10"],
        UpIgnoresGuard => &["s8d", "h10d"],
        ReadGuardThenHas => &["h11o", "h11", "h10d"],
        RestoreWrongOrder => &["h11c"],
        UpNoGuard | UpReleaseGuardBeforeRestore => &["h11o", "h11"],
        CountTopWithEveryChild => &["h12"],
        SetBeforeLeaf | NeverUncountTop => &["s1"],
        SearchIgnoresGuard | NoGuard => &["s7", "s9b"],
        DropUpRecheck => &["s1u", "s1x", "s8c"],
        NoPropagateUp | StopAtFirstSetBit => &["h9"],
        EnsureOnlyOnTransition => &["h6", "s6"],
        WeakSetterBetweenLevels => &["h9s"],
        WeakRaise => &["s1u"],
        WeakSetterAfterLeaf | WeakClearer | WeakAll => &["s1"],
        EnsureOnlyOwnOrder | NoSiblingLook | WeakSibling => &["s2", "s2w", "s12"],
        RollbackNoEvent => &["s11"],
        NoRollback | RollbackNoEnsure | OkAfterFailedClaim => &["s3", "s13", "s11"],
        RunRollbackNoEnsure => &["s11"],
        RunRollbackPartial => &["s13", "s13c"],
        FreeFetchOr | FreeNoVerifyPass => &["s4q", "s4p"],
        FreeNoCheckInCas => &["s4"],
        NoEventValidation | NoEventOnFree | EventBeforeEnsure => &["s5", "w1", "s5b"],
        EventWrongOrder => &["m2", "s5b"],
        ShortByOwnBlocks => &["m4"],
        WatchAfterSearch | WatchReadBeforeLeaf | WeakWatch | LiftKeepsVersion => {
            &["w1", "s5", "w2"]
        }
        StampByLoad => &["c1"],
        PinWithoutRecheck => &["q1l"],
        WeakPin | WeakStamp | RelaxedUnpin => &["q1c", "q3"],
        WeakFloor => &["c2"],
        StampTooOld | PinnedIsFreed => &["q1", "q1c"],
        OlderPinsForgotten => &["q4"],
        FloorWithoutEpoch | CollectUnripe => &["q7"],
        PreparedIsFreed | BeganAfterAdvance => &["c3"],
        UsedIsNotCounted => &["c5"],
        CurrentIsFreed => &["c4"],
        MarkByLook => &["q10"],
        LetOutBeforeUnmark => &["q9"],
        TagIsKept => &["f5", "f4"],
        PushWithoutRecheck => &["f5"],
        TailIsAwaited => &["f1", "f2"],
        PopWithoutRecheck => &["f7"],
        ContentsAfterPop => &["f4"],
        HeadPassesTail => &["f8"],
        UnripeWithoutRecheck => &["f9"],
        CallIsKept => &["g2"],
        LeadIsKept | LeadIsDropped | LeaderNotMarked | ResultIsNotTold => &["g1", "g2"],
        FlushIsForgotten => &["g4"],
        FlusherLeavesWork => &["g7"],
        StopIsKept => &["g8"],
        RoomIsNotPassedOn => &["g9"],
        RoomIsNotTold => &["g10"],
        WithdrawnIsNotTold => &["g11"],
        WakesAsFlusher => &["g12"],
        EnterByLook => &["l1"],
        LetOutBeforeLeave => &["l2"],
        ClaimWithoutLook => &["a1"],
        AsideWithoutLook | OpenAfterLook | WeakClosed => &["a2"],
        SweepWithoutLook => &["a3"],
        TakeWithoutAll => &["a5"],
        TakeWithoutPutBack => &["a10"],
        LengthBeforeLeaves => &["a7"],
        PendingWithoutLook | LimitAfterLook => &["d1"],
        TornWithoutLook => &["d3"],
        FreeBeforeGiveBack => &["d5"],
        NoteBeforeBlocks | WalkUnregistered | NotesAfterWalk => &["d6"],
        TokenBeforeBlock => &["e1"],
        SpareByStore => &["e5"],
        NoLastTake => &["e8"],
        OweBeforeLook => &["e6"],
        OutBeforeIn | SurplusIsKept => &["e9"],
        NoPlanWithoutLook | PlanKeepsParts => &["m5"],
        RestByOnePass => &["m6"],
        _ => &[],
    };
    let named = |id: &&str| ALL.iter().find(|scenario| scenario.id == *id);
    let mut order: Vec<&Scenario> = first.iter().filter_map(named).collect();
    order.extend(ALL.iter().filter(|scenario| !first.contains(&scenario.id)));
    order
}
