//! The orderings for the model checker, with the fences that a mutant can take away.

use super::site::Site;
use crate::base::mutant::{Mutant, mutated};
use loom::sync::atomic::{Ordering, fence};

pub const PLAIN: Ordering = Ordering::Relaxed;

pub fn load(_: Site) -> Ordering {
    if mutated(Mutant::RelaxedAll) { Ordering::Relaxed } else { Ordering::Acquire }
}
pub fn store(_: Site) -> Ordering {
    if mutated(Mutant::RelaxedAll) { Ordering::Relaxed } else { Ordering::Release }
}
pub fn change(site: Site) -> Ordering {
    let relaxed =
        mutated(Mutant::RelaxedAll) || (site == Site::Unpin && mutated(Mutant::RelaxedUnpin));
    if relaxed { Ordering::Relaxed } else { Ordering::AcqRel }
}
pub fn after(site: Site) {
    let weak = mutated(Mutant::WeakAll)
        || mutated(Mutant::RelaxedAll)
        || match site {
            Site::LeafRelease | Site::Sibling => {
                mutated(Mutant::WeakSetterAfterLeaf) || mutated(Mutant::WeakWatch)
            }
            Site::LeafReleaseFull => {
                mutated(Mutant::WeakSetterAfterLeaf)
                    || mutated(Mutant::WeakSibling)
                    || mutated(Mutant::WeakWatch)
            }
            Site::HasEnsure => {
                mutated(Mutant::WeakSetterBetweenLevels) || mutated(Mutant::WeakWatch)
            }
            Site::HasSet => mutated(Mutant::WeakRaise) || mutated(Mutant::WeakWatch),
            Site::HasClear => mutated(Mutant::WeakClearer),
            Site::Closed => mutated(Mutant::WeakClosed),
            Site::PinCount => mutated(Mutant::WeakPin),
            Site::EpochStamp => mutated(Mutant::WeakStamp),
            Site::FloorLook => mutated(Mutant::WeakFloor),
            // Around these, an engine reads and writes its own data as weakly as it likes: a fence
            // would order that, the access itself does not.
            Site::EpochLook
            | Site::EpochAdvance
            | Site::PinLook
            | Site::Unpin
            | Site::BeganLook
            | Site::BeganChange => true,
            // Message passing alone: see `queue.rs`. The index orders the marks, as below.
            Site::Link | Site::Node | Site::Mark => true,
            // The index orders what matters here: a block's way from owner to owner.
            Site::Ledger => true,
            _ => false,
        };
    if !weak {
        fence(Ordering::SeqCst);
    }
}
